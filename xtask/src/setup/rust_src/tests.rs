use std::{fs, os::unix::fs::symlink};

use super::*;

/// A folder that vanishes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn sources(&self, name: &str, core: &str) -> PathBuf {
        let root = self.0.join(name);
        for (file, text) in [
            ("Cargo.toml", ""),
            ("Cargo.lock", ""),
            ("core/Cargo.toml", ""),
            ("core/src/lib.rs", "mod deep;"),
            ("core/src/deep/deeper.rs", core),
            ("alloc/src/lib.rs", ""),
        ] {
            let path = root.join("library").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

const THIS: &str = "#[stable(feature = \"x\", since = \"1.95.0\")]";

#[test]
fn the_cheapest_way_comes_first() {
    let offer = Offer {
        kept: true,
        rustup: true,
        apt: true,
        archive: Some("src.tar.xz".into()),
    };
    let (ways, out) = ways(&offer);
    assert_eq!(
        ways,
        [
            Way::Kept,
            Way::Rustup,
            Way::Debian,
            Way::Archive("src.tar.xz".into())
        ]
    );
    assert!(out.is_empty());
}

#[test]
fn what_is_impossible_is_said() {
    let (ways, out) = ways(&Offer::default());
    assert!(ways.is_empty());
    assert_eq!(out.len(), 3, "{out:?}");
    assert!(
        out.iter().any(|reason| reason.contains("OVERLAY_RUST_SRC")),
        "{out:?}"
    );
}

#[test]
fn sources_of_another_release_are_refused() {
    let scratch = Scratch::new("release");
    verify(&scratch.sources("right", THIS), "1.95.0").unwrap();
    verify(&scratch.sources("right", THIS), "1.95.3").unwrap();

    let newer = scratch.sources(
        "newer",
        &format!("{THIS}\n#[stable(feature = \"y\", since = \"1.96.0\")]"),
    );
    assert!(format!("{:#}", verify(&newer, "1.95.0").unwrap_err()).contains("newer"));
    let older = scratch.sources("older", "#[stable(feature = \"z\", since = \"1.94.0\")]");
    assert!(format!("{:#}", verify(&older, "1.95.0").unwrap_err()).contains("older"));
}

#[test]
fn incomplete_sources_are_refused() {
    let scratch = Scratch::new("incomplete");
    let root = scratch.sources("root", THIS);
    fs::remove_file(root.join("library/Cargo.lock")).unwrap();
    assert!(
        verify(&root, "1.95.0")
            .unwrap_err()
            .to_string()
            .contains("incomplete")
    );
}

#[test]
fn a_failed_fetch_leaves_nothing_behind() {
    let scratch = Scratch::new("failed");
    let store = Store {
        root: scratch.0.join("store/1.95.0"),
    };
    assert!(
        store
            .fill("1.95.0", |staging| Ok(fs::write(staging.join("half"), "")?))
            .is_err()
    );
    assert!(!store.is_filled());
    assert_eq!(fs::read_dir(scratch.0.join("store")).unwrap().count(), 0);
}

#[test]
fn an_archive_fills_the_store_and_is_linked() {
    let scratch = Scratch::new("archive");
    let sources = scratch.sources("sources", THIS);
    let archive = scratch.0.join("src.tar");
    host::output(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&sources)
            .arg("library"),
    )
    .unwrap();

    let store = Store {
        root: scratch.0.join("store/1.95.0"),
    };
    let place = Place::of(&scratch.0.join("sysroot"));
    provide(&Way::Archive(archive), &store, &place, "1.95.0").unwrap();
    assert!(place.is_filled() && store.is_filled());

    // The toolchain was reinstalled: the kept copy serves again.
    fs::remove_file(&place.link).unwrap();
    provide(&Way::Kept, &store, &place, "1.95.0").unwrap();
    assert!(place.is_filled());
}

#[test]
fn a_link_that_leads_nowhere_is_replaced_and_a_filled_folder_kept() {
    let scratch = Scratch::new("leftovers");
    let place = Place::of(&scratch.0.join("sysroot"));
    fs::create_dir_all(place.link.parent().unwrap()).unwrap();
    symlink("/no/such/folder", &place.link).unwrap();
    place.clear_leftovers().unwrap();
    assert!(fs::symlink_metadata(&place.link).is_err());

    fs::create_dir(&place.link).unwrap();
    fs::write(place.link.join("precious"), "").unwrap();
    place.clear_leftovers().unwrap();
    assert!(place.link.join("precious").exists());
    assert!(
        place
            .point_to(&scratch.0)
            .unwrap_err()
            .to_string()
            .contains("incomplete folder")
    );
}
