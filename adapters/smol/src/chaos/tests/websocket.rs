//! Faults of WebSockets over real sockets

use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::super::frames::framed;
use super::super::rig::*;
use super::super::socket::Socket;
use super::super::*;

const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
const KEY: Option<[u8; 4]> = Some([9, 8, 7, 6]);

async fn receive(mut socket: &Socket, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).await.expect("read");
    bytes
}

/// Runs a test with both ends of a WebSocket
fn with_websocket(test: impl AsyncFnOnce(Rig, Socket, Socket)) {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        let (client, server) = upgraded(&rig).await;
        test(rig, client, server).await;
    });
}

async fn upgraded(rig: &Rig) -> (Socket, Socket) {
    let (client, server) = rig.link().await;
    send(&client, REQUEST).await;
    assert_eq!(receive(&server, REQUEST.len()).await, REQUEST);
    send(&server, RESPONSE).await;
    assert_eq!(receive(&client, RESPONSE.len()).await, RESPONSE);
    (client, server)
}

fn towards_coordinator(kind: Kind, amount: u64) -> Fault {
    Fault { towards: End::Coordinator, ..fault(kind, amount) }
}

/// Waits until a kind had so many effects, and was impossible so often
async fn until_effects(rig: &Rig, kind: Kind, expected: (u64, u64)) {
    assert_eq!(rig.proxy.counts().fired(kind), 1);
    until(|| (rig.proxy.counts().felt(kind), rig.proxy.counts().impossible(kind)) == expected).await;
}

/// What comes of these messages of the client where a fault strikes them
fn there(fault: Fault, messages: &[Vec<u8>], expected: &[u8]) {
    with_websocket(async |rig, client, server| {
        rig.proxy.strike(fault);
        send_all(&client, &messages.concat()).await;
        assert_eq!(receive_all(&server).await.expect("an end"), expected, "{}", fault.kind.name());
        until_effects(&rig, fault.kind, (1, 0)).await;
    });
}

#[test]
fn the_nth_message_is_missing_comes_twice_or_is_overtaken() {
    let all = [b"a", b"b", b"c", b"d"].map(|text| framed(0x82, KEY, text));
    let [a, b, c, d] = all.clone().map(|frame| frame.to_vec());
    let nth = |kind, after| Fault { after, ..towards_coordinator(kind, 0) };
    there(nth(Kind::Drop, 0), &all, &[&*b, &c, &d].concat());
    there(nth(Kind::Drop, 2), &all, &[&*a, &b, &d].concat());
    there(nth(Kind::Duplicate, 1), &all, &[&*a, &b, &b, &c, &d].concat());
    there(nth(Kind::Swap, 1), &all, &[&*a, &c, &b, &d].concat());
    there(Fault { span: millis(50), ..nth(Kind::Hold, 2) }, &all, &all.concat());
}

#[test]
fn the_nth_message_is_held_up_and_those_before_are_not() {
    with_websocket(async |rig, client, server| {
        let held = Fault { after: 1, span: HOUR, ..towards_coordinator(Kind::Hold, 0) };
        rig.proxy.strike(held);
        let (first, second) = (framed(0x82, KEY, b"first"), framed(0x82, KEY, b"second"));
        send(&client, &[&*first, &second].concat()).await;
        assert_eq!(receive(&server, first.len()).await, first);
        assert!(read_soon(&server).await.is_none());
        rig.proxy.heal();
        assert_eq!(receive(&server, second.len()).await, second);
    });
}

#[test]
fn masks_bits_and_fragments_are_wrong_where_they_should_be() {
    let (said, rest) = (framed(0x82, KEY, b"said"), framed(0x82, KEY, b"rest"));
    let messages = [said, rest.clone()];
    let case = |kind, amount, first: Vec<u8>| {
        there(towards_coordinator(kind, amount), &messages, &[first, rest.clone()].concat());
    };
    case(Kind::WrongMask, 0, framed(0x82, None, b"said"));
    case(Kind::ReservedBits, 0, framed(0xf2, KEY, b"said"));
    case(Kind::Fragment, 3, [framed(0x02, KEY, b"sai"), framed(0x80, KEY, b"d")].concat());
    // More than any limit: a lie.
    let lie = [&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 4], &framed(0x82, KEY, b"said")[2..]].concat();
    case(Kind::Lie, 1 << 40, lie);
    with_websocket(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::WrongMask, 0));
        send_all(&server, &framed(0x82, None, b"said")).await;
        assert_eq!(receive_all(&client).await.expect("an end"), framed(0x82, Some(*b"mask"), b"said"));
    });
}

#[test]
fn every_close_code_and_pings_come_at_once_between_two_messages() {
    for code in [0, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999, 65_535] {
        with_websocket(async |rig, client, server| {
            rig.proxy.strike(fault(Kind::CloseFrame, code));
            let bytes = (code as u16).to_be_bytes();
            let expected = framed(0x88, None, if code == 0 { &[] } else { &bytes });
            assert_eq!(receive(&client, expected.len()).await, expected);
            until_effects(&rig, Kind::CloseFrame, (1, 0)).await;
            drop(server);
        });
    }
    with_websocket(async |rig, client, server| {
        let (head, rest) = ([0x82, 0x83], [9, 8, 7, 6, b'a', b'b', b'c']);
        send(&client, &head).await;
        assert_eq!(receive(&server, 2).await, head);
        rig.proxy.strike(towards_coordinator(Kind::Ping, 3));
        // Not in the midst of a message, but behind it, in front of the next one.
        assert!(read_soon(&server).await.is_none());
        let last = framed(0x82, KEY, b"last");
        send(&client, &[&rest[..], &last].concat()).await;
        let expected = [&rest[..], &framed(0x89, Some(*b"mask"), b"xxx"), &last].concat();
        assert_eq!(receive(&server, expected.len()).await, expected);
    });
}

#[test]
fn pongs_are_missing_for_a_while_and_nothing_else() {
    with_websocket(async |rig, client, server| {
        let missing = towards_coordinator(Kind::NoPong, 0);
        rig.proxy.strike(missing);
        let (pong, data) = (framed(0x8a, KEY, b"x"), framed(0x82, KEY, b"data"));
        send(&client, &[&*pong, &data, &pong].concat()).await;
        assert_eq!(receive(&server, data.len()).await, data);
        assert!(read_soon(&server).await.is_none());
        // It lasts, and so it has one effect.
        until_effects(&rig, Kind::NoPong, (1, 0)).await;
        rig.proxy.heal();
        send(&client, &pong).await;
        assert_eq!(receive(&server, pong.len()).await, pong);
    });
}

#[test]
fn a_message_comes_in_two_segments_wherever_it_is_cut() {
    let message = framed(0x82, KEY, b"abcd");
    for (amount, at) in [(0, 1), (1, 4), (2, 8)] {
        with_websocket(async |rig, client, server| {
            rig.proxy.strike(Fault { span: HOUR, ..towards_coordinator(Kind::Segment, amount) });
            send(&client, &message).await;
            assert_eq!(receive(&server, at).await, message[..at]);
            assert!(read_soon(&server).await.is_none());
            rig.proxy.heal();
            assert_eq!(receive(&server, message.len() - at).await, message[at..]);
        });
    }
    with_websocket(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::Segment, 1));
        let unmasked = framed(0x82, None, b"abcd");
        send(&server, &unmasked).await;
        assert_eq!(receive(&client, unmasked.len()).await, unmasked);
        until_effects(&rig, Kind::Segment, (0, 1)).await;
    });
}

#[test]
fn a_reset_comes_in_front_of_the_nth_message() {
    with_websocket(async |rig, client, mut server| {
        rig.proxy.strike(Fault { after: 2, ..towards_coordinator(Kind::ResetFrame, 0) });
        let all = [b"1", b"2", b"3"].map(|text| framed(0x82, KEY, text));
        send(&client, &all.concat()).await;
        server.read_exact(&mut vec![0; all[..2].concat().len()]).await.expect("two messages");
        assert_reset(&server).await;
        assert_reset(&client).await;
        until_effects(&rig, Kind::ResetFrame, (1, 0)).await;
    });
}

#[test]
fn upgrades_are_answered_in_the_place_of_the_service() {
    for (status, more) in
        [(429, "Retry-After: 5\r\n"), (503, "Retry-After: 5\r\n"), (302, "Location: /\r\n"), (418, "")]
    {
        run(async {
            let rig = Rig::new(Profile::Calm, 1).await;
            rig.proxy.strike(fault(Kind::HttpStatus, status).lasting(millis(4500)));
            let client = Socket::connect(rig.proxy.local_addr()).await.expect("connect");
            send(&client, REQUEST).await;
            let answer = String::from_utf8(receive_all(&client).await.expect("an end")).expect("text");
            let expected = format!("HTTP/1.1 {status} \r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
            // The shorter it still lasts, the sooner may one come back.
            let expected = [4, 3, 2, 1]
                .map(|s| expected.replace("After: 5", &format!("After: {s}")))
                .into_iter()
                .chain([expected]);
            assert!(expected.into_iter().any(|expected| expected == answer), "{answer}");
            until_effects(&rig, Kind::HttpStatus, (1, 0)).await;
            assert!(within(millis(20), rig.upstream.accept()).await.is_none());
            rig.proxy.heal();
            drop(client);
            rig.until_empty().await;
            drop(upgraded(&rig).await);
        });
    }
}

#[test]
fn what_is_encrypted_or_no_websocket_has_no_messages_and_that_is_said() {
    run(async {
        for (first, why) in [(&b"\x16\x03\x01\x00\x05hello"[..], Opaque::Tls), (b"SSH-2.0-x\r\n", Opaque::Other)] {
            let rig = Rig::new(Profile::Calm, 1).await;
            rig.proxy.strike(fault(Kind::HttpStatus, 503));
            let mut client = Socket::connect(rig.proxy.local_addr()).await.expect("connect");
            client.write_all(first).await.expect("write");
            let (server, _) = rig.upstream.accept().await.expect("accept");
            assert_eq!(receive(&server, first.len()).await, first);
            until_effects(&rig, Kind::HttpStatus, (0, 1)).await;
            let all = [Kind::Drop, Kind::CloseFrame, Kind::Fragment, Kind::ReservedBits, Kind::ResetFrame];
            for kind in all {
                rig.proxy.strike(towards_coordinator(kind, 0));
                until_effects(&rig, kind, (0, 1)).await;
                assert_eq!(rig.proxy.opaque(towards_coordinator(kind, 0)), Some(why));
            }
            assert_eq!(rig.proxy.opaque(fault(Kind::Flip, 0)), None, "bytes are bytes");
            rig.proxy.strike(towards_coordinator(Kind::NoPong, 0));
            send_all(&client, b"as it is").await;
            assert_eq!(receive_all(&server).await.expect("an end"), b"as it is");
            until_effects(&rig, Kind::NoPong, (0, 1)).await;
        }
    });
}

#[test]
fn what_was_said_is_said_again_on_the_same_connection_or_a_later_one() {
    run(async {
        let (rig, _serving) = Rig::remembering();
        let said: Vec<Vec<u8>> = (b'a'..=b'f').map(|letter| framed(0x82, KEY, &[letter])).collect();
        let (client, server) = upgraded(&rig).await;
        let all = said[..3].concat();
        send(&client, &all).await;
        assert_eq!(receive(&server, all.len()).await, all);
        rig.proxy.strike(towards_coordinator(Kind::Replay, 2));
        send(&client, &said[3]).await;
        let expected = [&*said[1], &said[3]].concat();
        assert_eq!(receive(&server, expected.len()).await, expected);
        drop((client, server));
        rig.until_empty().await;
        // Back over the end of the connection before.
        let (client, server) = upgraded(&rig).await;
        rig.proxy.strike(Fault { after: 1, ..towards_coordinator(Kind::Replay, 4) });
        send(&client, &said[4..].concat()).await;
        let expected = [&*said[4], &said[1], &said[5]].concat();
        assert_eq!(receive(&server, expected.len()).await, expected);
        until(|| rig.proxy.counts().felt(Kind::Replay) == 2).await;
    });
}

#[test]
fn what_one_has_said_is_heard_from_another() {
    run(async {
        let (rig, _serving) = Rig::remembering();
        let ends = [upgraded(&rig).await, upgraded(&rig).await, upgraded(&rig).await];
        for ((client, server), text) in ends.iter().zip([b"0", b"1", b"2"]) {
            let said = framed(0x82, KEY, text);
            send(client, &said).await;
            assert_eq!(receive(server, said.len()).await, said);
        }
        for (further, other) in [(0, b"1"), (1, b"2"), (2, b"1")] {
            rig.proxy.strike(towards_coordinator(Kind::Splice, further));
            send(&ends[0].0, &framed(0x82, KEY, b"x")).await;
            let expected = [framed(0x82, KEY, other), framed(0x82, KEY, b"x")].concat();
            assert_eq!(receive(&ends[0].1, expected.len()).await, expected);
        }
        until(|| rig.proxy.counts().felt(Kind::Splice) == 3).await;
    });
}

#[test]
fn an_impostor_begins_as_somebody_else_has_begun() {
    run(async {
        let (rig, _serving) = Rig::remembering();
        let (client, server) = upgraded(&rig).await;
        let said = [b"1", b"2", b"3"].map(|text| framed(0x82, KEY, text));
        send(&client, &said.concat()).await;
        receive(&server, said.concat().len()).await;
        rig.proxy.strike(fault(Kind::Impostor, 2));
        let (impostor, _) = rig.upstream.accept().await.expect("accept");
        let expected = [REQUEST, &said[0], &said[1]].concat();
        assert_eq!(receive(&impostor, expected.len()).await, expected);
        until_effects(&rig, Kind::Impostor, (1, 0)).await;
        drop(impostor);
    });
}

#[test]
fn nothing_is_said_again_where_nothing_is_remembered() {
    with_websocket(async |rig, client, server| {
        let said = framed(0x82, KEY, b"said");
        for kind in [Kind::Replay, Kind::Splice, Kind::Impostor] {
            rig.proxy.strike(towards_coordinator(kind, 1));
            send(&client, &said).await;
            assert_eq!(receive(&server, said.len()).await, said);
            until_effects(&rig, kind, (0, 1)).await;
        }
    });
}
