use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::mpsc, thread, time::Duration};

use super::{store::once, *};

/// A folder that vanishes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("xtask-api-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_folder_without_one_of_the_programs_is_refused_by_its_name() {
    let scratch = Scratch::new("given");
    scratch.file("kube-apiserver", "");
    let text = format!("{:#}", check_given(&scratch.0).unwrap_err());
    assert!(
        text.contains(ASSETS_VARIABLE) && text.contains("/etcd") && text.contains("unset it"),
        "{text}"
    );
    scratch.file("etcd", "");
    check_given(&scratch.0).unwrap();
}

#[test]
fn what_is_missing_and_what_provides_it_is_said() {
    let text = explained("no mirror of this machine has it");
    for part in [
        "no mirror",
        "bookworm",
        "golang-1.19-go",
        "source package kubernetes",
        ASSETS_VARIABLE,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_interrupted_step_is_done_again_and_a_finished_one_is_not() {
    let scratch = Scratch::new("once");
    let folder = scratch.0.join("step");
    let interrupted = once(&folder, |partial| {
        fs::write(partial.join("half"), "")?;
        bail!("interrupted")
    });
    assert!(interrupted.is_err() && !folder.exists());
    once(&folder, |partial| {
        assert!(!partial.join("half").exists(), "it began with what was left over");
        Ok(fs::write(partial.join("whole"), "")?)
    })
    .unwrap();
    once(&folder, |_| bail!("it was done twice")).unwrap();
    assert!(folder.join("whole").exists());
}

#[test]
fn only_programs_that_run_become_the_store() {
    let scratch = Scratch::new("adopt");
    let store = Store::at(scratch.0.join("store/1.2.3"));
    scratch.file("store/1.2.3.build/cache", "");
    let good = scratch.program("good", "#!/bin/sh\nexit 0\n");
    let bad = scratch.program("bad", "#!/bin/sh\necho no such library >&2\nexit 127\n");
    let text = format!("{:#}", store.adopt(&good, &bad).unwrap_err());
    assert!(
        text.contains("etcd") && text.contains("no such library"),
        "{text}"
    );
    assert!(!store.is_filled() && store.work().exists());

    store.adopt(&good, &good).unwrap();
    assert!(store.is_filled() && !store.work().exists());
}

#[test]
fn a_second_run_waits_for_the_first() {
    let scratch = Scratch::new("lock");
    let root = scratch.0.join("store/1.2.3");
    let first = Store::at(root.clone()).lock().unwrap();
    let (done, waiting) = mpsc::channel();
    let second = thread::spawn(move || {
        let lock = Store::at(root).lock().unwrap();
        done.send(()).unwrap();
        lock
    });
    assert!(waiting.recv_timeout(Duration::from_millis(100)).is_err());
    drop(first);
    waiting.recv_timeout(Duration::from_secs(5)).unwrap();
    second.join().unwrap();
}

#[test]
fn marked_packages_are_imported_as_the_server_imports_them() {
    let scratch = Scratch::new("marks");
    let mark = "// +k8s:openapi-gen=true\npackage v1\n";
    for (file, text) in [
        ("pkg/apis/abac/v0/doc.go", mark),
        ("pkg/apis/other/doc.go", "package other\n"),
        ("pkg/apis/other/doc_test.go", mark),
        ("staging/src/k8s.io/api/core/v1/doc.go", mark),
        ("staging/src/k8s.io/code-generator/_examples/v1/doc.go", mark),
    ] {
        scratch.file(file, text);
    }
    assert_eq!(
        openapi::marked_packages(&scratch.0).unwrap(),
        [
            "k8s.io/kubernetes/pkg/apis/abac/v0",
            "k8s.io/kubernetes/vendor/k8s.io/api/core/v1"
        ]
    );
}

#[test]
fn the_server_will_name_its_version() {
    let flags = build::linker_flags("1.20.2");
    assert!(flags.starts_with("-s -w "), "{flags}");
    for package in ["component-base/version", "client-go/pkg/version"] {
        for set in ["gitVersion=v1.20.2", "gitMajor=1", "gitMinor=20"] {
            let expected = format!(" -X k8s.io/kubernetes/vendor/k8s.io/{package}.{set}");
            assert!(flags.contains(&expected), "{expected}: {flags}");
        }
    }
}

#[test]
fn memory_is_read_from_the_kernels_table() {
    let text = "MemTotal:       25165824 kB\nMemFree:  1 kB\nMemAvailable:   20971520 kB\n";
    assert_eq!(build::available_memory(text), Some(20_971_520));
    assert_eq!(build::available_memory(""), None);
}

#[test]
fn a_download_is_found_by_the_ends_of_its_name() {
    let scratch = Scratch::new("find");
    scratch.file("kubernetes_1.orig.tar.gz", "");
    scratch.file("kubernetes_1.dsc", "");
    let found = debian::find(&scratch.0, "kubernetes_", ".orig.tar.gz").unwrap();
    assert!(found.ends_with(Path::new("kubernetes_1.orig.tar.gz")));
    assert!(debian::find(&scratch.0, "etcd-server_", ".deb").is_err());
}
