use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc::{self, Receiver};

use super::*;

/// Long enough for a loaded machine; a delivery takes some 60 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than a delivery takes.
const SILENCE: Duration = Duration::from_millis(400);

fn lease(n: u8) -> String {
    format!(
        "  - node: worker-{n}\n    subnet: 10.244.{n}.0/24\n    publicIP: 192.168.0.{n}\n    vtepMAC: 02:00:00:00:00:0{n}\n"
    )
}

fn document(nodes: &[u8]) -> String {
    if nodes.is_empty() {
        return "leases: []\n".to_owned();
    }
    nodes
        .iter()
        .fold("leases:\n".to_owned(), |text, n| text + &lease(*n))
}

/// Replaces a file as editors and `kubectl cp` do.
fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("yaml~");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

struct Running {
    events: Receiver<LeaseEvent>,
}

fn start(path: &Path) -> Running {
    start_with(path, Duration::from_secs(3600))
}

fn start_with(path: &Path, resync: Duration) -> Running {
    let (sender, events) = mpsc::channel(4);
    tokio::spawn(FileSource::new(path.to_owned(), resync).run(sender));
    Running { events }
}

impl Running {
    /// The names of the next delivery.
    async fn next(&mut self) -> Vec<String> {
        match timeout(PATIENCE, self.events.recv())
            .await
            .expect("no delivery")
            .expect("the source ended")
        {
            LeaseEvent::Replace(leases) => leases.into_iter().map(|lease| lease.node).collect(),
            other @ (LeaseEvent::Upsert(_) | LeaseEvent::Remove { .. }) => {
                panic!("a file source delivers complete lists only: {other:?}")
            }
        }
    }

    async fn silent(&mut self) {
        let event = timeout(SILENCE, self.events.recv()).await;
        assert!(event.is_err(), "unexpected {event:?}");
    }
}

fn broken(path: &Path) -> String {
    match read(path) {
        Listing::Broken(text) => text,
        other @ (Listing::Missing | Listing::Empty | Listing::Leases { .. }) => {
            panic!("not broken: {other:?}")
        }
    }
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn follows_a_file_that_is_renamed_over_and_written_in_place() {
    let dir = temp();
    let path = dir.path().join("leases.yaml");
    fs::write(&path, document(&[1])).unwrap();
    let mut source = start(&path);
    assert_eq!(source.next().await, ["worker-1"]);
    rename_over(&path, &document(&[1, 2]));
    assert_eq!(source.next().await, ["worker-1", "worker-2"]);
    fs::write(&path, document(&[2])).unwrap();
    assert_eq!(source.next().await, ["worker-2"]);
    fs::write(&path, document(&[])).unwrap();
    assert_eq!(source.next().await, [""; 0]);
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_state_until_it_is_repaired() {
    let dir = temp();
    let path = dir.path().join("leases.yaml");
    fs::write(&path, document(&[1, 2])).unwrap();
    let mut source = start(&path);
    source.next().await;
    for text in ["leases:\n  - node: [", "", "leases:\n  - node: worker-1\n"] {
        rename_over(&path, text);
        source.silent().await;
    }
    rename_over(&path, &document(&[1]));
    assert_eq!(source.next().await, ["worker-1"]);
}

#[tokio::test]
async fn a_file_that_vanishes_is_not_an_empty_list() {
    let dir = temp();
    let path = dir.path().join("leases.yaml");
    fs::write(&path, document(&[1])).unwrap();
    let mut source = start(&path);
    source.next().await;
    fs::remove_file(&path).unwrap();
    source.silent().await;
    fs::write(&path, document(&[1, 2])).unwrap();
    assert_eq!(source.next().await.len(), 2);
}

#[tokio::test]
async fn waits_for_a_path_whose_directories_are_missing_too() {
    let dir = temp();
    let path = dir.path().join("a/b/leases.yaml");
    let mut source = start(&path);
    source.silent().await;
    fs::create_dir(dir.path().join("a")).unwrap();
    source.silent().await;
    fs::create_dir(dir.path().join("a/b")).unwrap();
    source.silent().await;
    fs::write(&path, document(&[3])).unwrap();
    assert_eq!(source.next().await, ["worker-3"]);
}

#[tokio::test]
async fn reads_the_files_of_a_directory_in_the_order_of_their_names() {
    let dir = temp();
    fs::write(dir.path().join("b.yaml"), document(&[2])).unwrap();
    fs::write(dir.path().join("a.yml"), document(&[3])).unwrap();
    for name in [
        ".hidden.yaml",
        "b.yaml~",
        "b.yaml.bak",
        "#b.yaml#",
        ".b.yaml.swp",
        "notes.txt",
    ] {
        fs::write(dir.path().join(name), "not: [yaml").unwrap();
    }
    let mut source = start(dir.path());
    assert_eq!(source.next().await, ["worker-3", "worker-2"]);
    fs::write(dir.path().join("c.yaml"), document(&[1])).unwrap();
    assert_eq!(source.next().await, ["worker-3", "worker-2", "worker-1"]);
    fs::remove_file(dir.path().join("a.yml")).unwrap();
    assert_eq!(source.next().await, ["worker-2", "worker-1"]);
    // One broken file keeps everything, also what another file no longer says.
    fs::write(dir.path().join("b.yaml"), "leases: 7\n").unwrap();
    source.silent().await;
    fs::write(dir.path().join("c.yaml"), document(&[])).unwrap();
    source.silent().await;
    fs::write(dir.path().join("b.yaml"), document(&[2])).unwrap();
    assert_eq!(source.next().await, ["worker-2"]);
    // No file at all is what a directory looks like while a volume is mounted or restored.
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    fs::remove_file(dir.path().join("c.yaml")).unwrap();
    source.silent().await;
}

#[tokio::test]
async fn follows_a_mounted_config_map() {
    let dir = temp();
    let version = |name: &str, nodes: &[u8]| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("leases.yaml"), document(nodes)).unwrap();
    };
    // As the kubelet does it: a new directory, a new link renamed over `..data`, the old directory removed.
    version("..2026_01", &[1]);
    symlink("..2026_01", dir.path().join("..data")).unwrap();
    symlink("..data/leases.yaml", dir.path().join("leases.yaml")).unwrap();
    let mut by_directory = start(dir.path());
    let mut by_file = start(&dir.path().join("leases.yaml"));
    assert_eq!(by_directory.next().await, ["worker-1"]);
    assert_eq!(by_file.next().await, ["worker-1"]);
    for (name, old, nodes) in [("..2026_02", "..2026_01", 2), ("..2026_03", "..2026_02", 3)] {
        version(name, &[nodes]);
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        fs::remove_dir_all(dir.path().join(old)).unwrap();
        assert_eq!(by_directory.next().await, [format!("worker-{nodes}")]);
        assert_eq!(by_file.next().await, [format!("worker-{nodes}")]);
    }
}

#[tokio::test]
async fn a_link_into_another_directory_is_followed() {
    let (here, there) = (temp(), temp());
    let target = there.path().join("real.yaml");
    fs::write(&target, document(&[1])).unwrap();
    let path = here.path().join("leases.yaml");
    symlink(&target, &path).unwrap();
    let mut source = start(&path);
    source.next().await;
    rename_over(&target, &document(&[1, 2]));
    assert_eq!(source.next().await.len(), 2);
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed() {
    let dir = temp();
    let path = dir.path().join("leases.d");
    let new = dir.path().join("new");
    for (directory, node) in [(&path, 1), (&new, 2)] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("a.yaml"), document(&[node])).unwrap();
    }
    let mut source = start(&path);
    assert_eq!(source.next().await, ["worker-1"]);
    fs::rename(&path, dir.path().join("old")).unwrap();
    fs::rename(&new, &path).unwrap();
    assert_eq!(source.next().await, ["worker-2"]);
    fs::write(path.join("a.yaml"), document(&[3])).unwrap();
    assert_eq!(source.next().await, ["worker-3"]);
}

#[tokio::test]
async fn writing_step_by_step_is_one_delivery() {
    use std::io::Write;
    let dir = temp();
    let path = dir.path().join("leases.yaml");
    fs::write(&path, document(&[1])).unwrap();
    let mut source = start(&path);
    source.next().await;
    let mut file = fs::File::create(&path).unwrap();
    for text in ["leases:\n".to_owned(), lease(1), lease(2), lease(3)] {
        file.write_all(text.as_bytes()).unwrap();
        file.flush().unwrap();
        sleep(QUIET / 5).await;
    }
    assert_eq!(source.next().await.len(), 3);
    source.silent().await;
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    let dir = temp();
    fs::write(dir.path().join("a.yaml"), document(&[1])).unwrap();
    fs::write(dir.path().join("b.yaml"), document(&[2, 1])).unwrap();
    let text = broken(dir.path());
    assert!(
        text.contains("a.yaml:2") && text.contains("b.yaml:6") && text.contains("worker-1"),
        "{text}"
    );
    fs::write(
        dir.path().join("b.yaml"),
        "leases:\n  - node: worker-2\n    subnet: 10.244.2.0\n",
    )
    .unwrap();
    let text = broken(dir.path());
    assert!(text.contains("b.yaml:"), "{text}");
    assert!(broken(Path::new("/dev/null")).contains("neither a file nor a directory"));
    fs::write(dir.path().join("b.yaml"), [0xff, 0xfe]).unwrap();
    assert!(broken(dir.path()).contains("b.yaml"));
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    fs::create_dir(dir.path().join("b.yaml")).unwrap();
    assert!(broken(dir.path()).contains("b.yaml"));
}

#[test]
fn says_each_thing_once() {
    let mut source = FileSource::new("/nowhere".into(), Duration::from_secs(60));
    let leases = |origin: &str| Listing::Leases {
        leases: vec![Lease {
            node: "n".into(),
            origin: origin.into(),
            v4: None,
            v6: None,
        }],
        warnings: vec![],
    };
    assert_eq!(source.take(Listing::Missing), None);
    assert!(source.take(leases("a:1")).is_some());
    assert!(
        source.take(leases("a:1")).is_none(),
        "the same again is not delivered"
    );
    assert!(source.take(Listing::Broken("a:2: no".into())).is_none());
    assert!(
        source.take(leases("a:1")).is_none(),
        "repaired to what is in force"
    );
    assert_eq!(source.good.as_ref().map(Vec::len), Some(1));
}
