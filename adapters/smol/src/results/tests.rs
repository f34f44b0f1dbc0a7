use rejoin_core::blob::chunk_name;

use super::format::tests::kept;
use super::*;

const PLACES: u16 = 2;

fn open(data: &Path) -> Result<(Folder, Vec<Found>), OpenError> {
    Folder::open(data, &"lab-1".parse().unwrap(), RESULTS_BYTES_MAX, 4096, PLACES)
}

fn job(token: u64) -> Job {
    Job {
        kept: Kept { streams: Default::default(), inline: Default::default(), ..kept(token) },
        outputs: None,
        large: None,
    }
}

fn files(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data.join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn sess_9_what_is_kept_is_there_for_the_next_process_until_it_is_removed() {
    let data = tempfile::tempdir().unwrap();
    let (mut folder, found) = open(data.path()).unwrap();
    assert!(found.is_empty());
    folder.write(&job(7)).unwrap();
    folder.write(&job(8)).unwrap();
    folder.sync().unwrap();
    drop(folder);
    let (mut folder, found) = open(data.path()).unwrap();
    let tokens: Vec<u64> = found.iter().map(|found| found.kept.token.0).collect();
    assert_eq!((tokens, cluster_of(&found)), (vec![7, 8], Some(ClusterId([7; 16]))));
    assert_eq!(found[0].kept.checkpoint, Some((2, b"half way".to_vec())));
    folder.remove(Token(7)).unwrap();
    folder.remove(Token(7)).unwrap();
    drop(folder);
    assert_eq!(open(data.path()).unwrap().1.len(), 1);
    assert_eq!(files(data.path()), ["0000000000000008.result", RESERVE]);
}

#[test]
fn sess_9_output_in_files_is_compared_with_what_it_was() {
    let data = tempfile::tempdir().unwrap();
    let write = |output: &[u8]| {
        let (folder, _) = open(data.path()).unwrap();
        let end = {
            let mut meter = StreamMeter::new();
            meter.update(b"hello");
            meter.end()
        };
        let kept = Kept { streams: [end, StreamEnd::default()], inline: [None, Some(Vec::new())], ..kept(7) };
        fs::write(folder.output(Token(7), Stream::Out), output).unwrap();
        fs::write(folder.file(Token(7), RESULT), format::seal(&kept).unwrap()).unwrap();
    };
    write(b"hello");
    let (folder, found) = open(data.path()).unwrap();
    let mut piece = [0; 9];
    assert_eq!(found[0].output.read_at(Stream::Out, 1, &mut piece).unwrap(), 4);
    assert_eq!(&piece[..4], b"ello");
    assert_eq!(found[0].output.read_at(Stream::Err, 0, &mut piece).unwrap(), 0);
    drop(folder);
    for output in [&b"hellO"[..], b"hell", b"hello!"] {
        write(output);
        assert!(open(data.path()).unwrap().1.is_empty(), "{output:?}");
        assert_eq!(
            files(data.path()),
            ["0000000000000007.out.damaged", "0000000000000007.result.damaged", RESERVE],
            "named, set aside, and not lost"
        );
    }
    write(b"hello");
    fs::remove_file(data.path().join(FOLDER).join("0000000000000007.out")).unwrap();
    assert!(open(data.path()).unwrap().1.is_empty());
}

#[test]
fn sess_9_a_large_result_is_a_file_beside_it_and_compared_with_its_names() {
    let data = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..150_000u32).map(|n| (n / 7) as u8).collect();
    let names: Vec<ChunkName> = bytes.chunks(65_536).map(chunk_name).collect();
    let left = data.path().join("left");
    fs::write(&left, &bytes).unwrap();
    let length = bytes.len() as u64;
    let large = Large::reopen(&left, length, names.clone()).unwrap().unwrap();
    let write = || {
        let (mut folder, _) = open(data.path()).unwrap();
        let Job { kept, .. } = job(7);
        let kept = Kept { result: Vec::new(), large: Some((length, names.clone())), ..kept };
        folder.write(&Job { kept, outputs: None, large: Some(large.clone()) }).unwrap();
        assert!(folder.kept[&Token(7)] > length, "it counts");
        folder.file(Token(7), LARGE)
    };
    let path = write();
    let (mut folder, found) = open(data.path()).unwrap();
    let found = found[0].large.as_ref().unwrap();
    let mut piece = [0; 100];
    assert_eq!((found.len(), found.names(), found.read_at(149_950, &mut piece).unwrap()), (length, &names[..], 50));
    assert_eq!(&piece[..50], &bytes[149_950..]);
    assert!(folder.kept[&Token(7)] > length);
    folder.remove(Token(7)).unwrap();
    assert_eq!(files(data.path()), [RESERVE]);
    drop(folder);
    let mut other = bytes.clone();
    other[149_999] ^= 1;
    let longer = [&bytes[..], b"!"].concat();
    for damaged in [Some(&other[..]), Some(&bytes[1..]), Some(&longer[..]), None] {
        write();
        damaged.map_or_else(|| fs::remove_file(&path), |damaged| fs::write(&path, damaged)).unwrap();
        assert!(open(data.path()).unwrap().1.is_empty());
        assert!(files(data.path()).contains(&"0000000000000007.result.damaged".to_owned()));
    }
}

#[test]
fn sess_9_a_torn_result_is_set_aside_and_the_others_are_taken() {
    let data = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(data.path()).unwrap();
    (7..10).for_each(|token| folder.write(&job(token)).unwrap());
    let torn = folder.file(Token(8), RESULT);
    // Half written under another name, and output whose result never was.
    fs::write(folder.file(Token(11), "tmp"), b"rjr1").unwrap();
    fs::write(folder.file(Token(12), "out"), b"text").unwrap();
    drop(folder);
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 1]).unwrap();
    let (_folder, found) = open(data.path()).unwrap();
    let tokens: Vec<u64> = found.iter().map(|found| found.kept.token.0).collect();
    assert_eq!(tokens, [7, 9]);
    let there = ["0000000000000007.result", "0000000000000008.result.damaged", "0000000000000009.result", RESERVE];
    assert_eq!(files(data.path()), there);
}

#[test]
fn sess_9_a_directory_is_one_worker_s_at_a_time_and_of_one_name_and_cluster() {
    let data = tempfile::tempdir().unwrap();
    let (mut folder, _) = open(data.path()).unwrap();
    assert!(matches!(open(data.path()), Err(OpenError::InUse(_))));
    folder.write(&job(7)).unwrap();
    drop(folder);
    let other = "lab-2".parse().unwrap();
    let refused = Folder::open(data.path(), &other, RESULTS_BYTES_MAX, 4096, PLACES).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("a result of the worker lab-1, and this worker is lab-2"), "{refused}");
    let file = data.path().join(FOLDER).join("0000000000000009.result");
    let elsewhere = Kept { cluster: ClusterId([8; 16]), ..kept(9) };
    fs::write(&file, format::seal(&elsewhere).unwrap()).unwrap();
    assert!(matches!(open(data.path()), Err(OpenError::Mixed(_))));
    let mut newer = format::seal(&kept(9)).unwrap();
    newer[3] = b'2';
    fs::write(&file, newer).unwrap();
    assert!(matches!(open(data.path()), Err(OpenError::Newer(path)) if path == file));
    // Under the name of another attempt.
    fs::write(&file, format::seal(&kept(7)).unwrap()).unwrap();
    assert_eq!(open(data.path()).unwrap().1.len(), 1);
}

#[test]
fn sess_9_room_is_reserved_within_the_limit_and_given_to_what_is_kept() {
    let data = tempfile::tempdir().unwrap();
    let one = place_bytes(4096);
    let open = |bytes_max| Folder::open(data.path(), &"lab-1".parse().unwrap(), bytes_max, 4096, PLACES);
    assert!(matches!(open(one - 1), Err(OpenError::TooSmall { .. })));
    let (folder, _) = open(one).unwrap();
    assert_eq!((folder.reserved(), folder.reserve.metadata().unwrap().len()), (1, one));
    drop(folder);
    let (mut folder, _) = open(2 * one).unwrap();
    assert!(folder.is_reserved());
    folder.write(&job(7)).unwrap();
    folder.reserve();
    assert_eq!(folder.reserved(), 1, "what is kept counts");
    folder.remove(Token(7)).unwrap();
    folder.reserve();
    assert!(folder.is_reserved());
}

#[test]
fn sess_9_what_dead_processes_left_goes_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("task-12-3")).unwrap();
    fs::write(data.path().join("task-12-3").join("in"), b"").unwrap();
    fs::create_dir(data.path().join("task-of-mine")).unwrap();
    for name in ["output-12-3.spool", "restore-12-0", "output.spool", "restore-me", "notes"] {
        fs::write(data.path().join(name), b"").unwrap();
    }
    drop(open(data.path()).unwrap());
    let mut left: Vec<_> = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["lock", "notes", "output.spool", "restore-me", "results", "task-of-mine"]);
}

#[test]
fn sess_9_the_thread_keeps_what_is_not_settled_first_and_leaves_nothing_undone() {
    let data = tempfile::tempdir().unwrap();
    let (folder, _) = open(data.path()).unwrap();
    let keeper = Keeper::start(folder).unwrap();
    keeper.keep(job(7));
    keeper.keep(job(8));
    keeper.remove(Token(7));
    let happened = smol::block_on(keeper.next());
    assert_eq!((happened.kept, happened.reserved, happened.trouble), (vec![Token(8)], PLACES, None));
    keeper.keep(job(9));
    keeper.remove(Token(8));
    smol::block_on(keeper.finish());
    assert_eq!(files(data.path()), ["0000000000000009.result", RESERVE]);
}
