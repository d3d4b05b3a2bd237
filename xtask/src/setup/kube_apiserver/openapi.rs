//! The packages whose types the API's description covers: those with the mark `+k8s:openapi-gen=`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const MARK: &str = "+k8s:openapi-gen=";

/// Folders of the source that can hold such packages, and the import path of each. The libraries that are developed
/// with the server lie below `staging` and are imported through links in `vendor`.
const ROOTS: [(&str, &str); 2] = [
    ("pkg", "k8s.io/kubernetes/pkg"),
    ("staging/src/k8s.io", "k8s.io/kubernetes/vendor/k8s.io"),
];

/// The import paths of all marked packages below `tree`, sorted.
pub(super) fn marked_packages(tree: &Path) -> Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for (folder, import) in ROOTS {
        visit(&tree.join(folder), import, &mut found)?;
    }
    Ok(found.into_iter().collect())
}

fn visit(folder: &Path, import: &str, found: &mut BTreeSet<String>) -> Result<()> {
    for path in entries(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            // As Go does.
            if !name.starts_with(['.', '_']) && name != "testdata" {
                visit(&path, &format!("{import}/{name}"), found)?;
            }
        } else if name.ends_with(".go") && !name.ends_with("_test.go") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            if text.contains(MARK) {
                found.insert(import.to_owned());
            }
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.path())
                .with_context(|| format!("{} cannot be read", folder.display()))
        })
        .collect()
}
