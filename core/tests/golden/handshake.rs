use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, SessionId};
use rejoin_core::wire::handshake::{CAPABILITY_LZ4, Challenge, Hello, Proof, Refusal, RejectCode, Resume, append_mac};

use crate::book::Book;
use crate::variants::{Variants, every};

const MAC: [u8; 32] = [0xaa; 32];

fn encoded(encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut room = vec![0; 1024];
    let len = encode(&mut room);
    room.truncate(len);
    room
}

#[test]
fn frame_6_every_handshake_message_is_encoded_as_ever() {
    let mut book = Book::open(
        "handshake.txt",
        "Every message of the handshake, whose layout never changes\n\n\
         1 byte kind, then each field behind its length in 2 bytes; numbers are little endian\n\
         The proofs in these are no proofs; conversation.txt has real ones",
    );
    let hello = Hello {
        versions: [1].into_iter().collect(),
        capabilities: CAPABILITY_LZ4,
        audience: "ws://coordinator",
        binding: b"",
        role: Role::Worker,
        name: "lab-3".parse().expect("a legal name"),
        key: KeyId([1; 8]),
        boot: BootId([2; 16]),
        session: None,
        epoch: 0,
        nonce: [3; 32],
    };
    let again = Hello {
        versions: [2, 1].into_iter().collect(),
        binding: b"tls-exporter",
        role: Role::Client,
        session: Some(SessionId([4; 16])),
        epoch: 7,
        ..hello.clone()
    };
    for (n, hello) in [hello, again].iter().enumerate() {
        let found = book.add(&format!("Hello.{}", n + 1), hello, &encoded(|out| hello.encode(out)));
        assert_eq!(Hello::decode(&found).as_ref(), Some(hello));
    }
    let challenge = Challenge {
        version: 1,
        capabilities: CAPABILITY_LZ4,
        binding: b"",
        cluster: ClusterId([5; 16]),
        epoch: 7,
        frame_bytes_max: 65_536,
        messages: 4096,
        bulk: 1 << 20,
        open: None,
        nonce: [6; 32],
    };
    let open = Challenge { binding: b"tls-exporter", open: Some(300), ..challenge.clone() };
    for (n, challenge) in [challenge, open].iter().enumerate() {
        let bytes = encoded(|out| {
            let len = challenge.encode(out);
            append_mac(out, len, &MAC)
        });
        let found = book.add(&format!("Challenge.{}", n + 1), challenge, &bytes);
        let (decoded, signed, mac) = Challenge::decode(&found).expect("a challenge");
        assert_eq!((&decoded, signed.len(), mac), (challenge, found.len() - 34, MAC));
    }
    let resume = Resume {
        session: SessionId([4; 16]),
        generation: 2,
        received: 3,
        sent: 500,
        acknowledged: 400,
        rmac: [0xbb; 32],
    };
    for (n, resume) in [None, Some(resume)].into_iter().enumerate() {
        let proof = Proof { resume };
        let bytes = encoded(|out| {
            let len = proof.encode(out);
            append_mac(out, len, &MAC)
        });
        let found = book.add(&format!("Proof.{}", n + 1), &proof, &bytes);
        let (decoded, signed, mac) = Proof::decode(&found).expect("a proof");
        assert_eq!((decoded, signed.len(), mac), (proof, found.len() - 34, MAC));
    }
    every([Refusal::RetryAfter(0), Refusal::Reject(RejectCode::Version)]);
    use RejectCode::{Audience, Malformed, Unbound, UnknownKey, Version};
    let codes = every([Malformed, UnknownKey, Version, Unbound, Audience]);
    for refusal in [Refusal::RetryAfter(1_500_000)].into_iter().chain(codes.map(Refusal::Reject)) {
        let name = match refusal {
            Refusal::RetryAfter(_) => "RetryAfter".into(),
            Refusal::Reject(code) => format!("Reject.{}", code.variant()),
        };
        let found = book.add(&name, &refusal, &encoded(|out| refusal.encode(out)));
        assert_eq!(Refusal::decode(&found), Some(refusal));
    }
    book.close();
}
