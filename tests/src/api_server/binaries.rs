//! Where kube-apiserver and etcd are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Environment variable that names the directory with `kube-apiserver` and `etcd`, as everywhere in the ecosystem.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The two programs that make an API server.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub(super) kube_apiserver: PathBuf,
    pub(super) etcd: PathBuf,
}

impl Binaries {
    /// Those in the directory that [`ASSETS_VARIABLE`] names.
    ///
    /// # Errors
    ///
    /// When it is not set or one is missing; the error says how to get them.
    pub fn find() -> Result<Self> {
        let directory = env::var_os(ASSETS_VARIABLE)
            .filter(|value| !value.is_empty())
            .with_context(|| {
                format!(
                    "{ASSETS_VARIABLE} is not set: it names the directory with kube-apiserver and etcd that this test \
                     starts; `cargo xtask test api` (or `cluster`) builds them and sets it"
                )
            })?;
        Self::in_directory(Path::new(&directory))
    }

    fn in_directory(directory: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = directory.join(name);
            if !path.is_file() {
                bail!(
                    "{ASSETS_VARIABLE} names {}, but there is no file {name}; it must hold kube-apiserver and etcd \
                     (unset it, and `cargo xtask test api` builds them)",
                    directory.display()
                );
            }
            // The programs start in other namespaces with the same files, but another folder.
            path.canonicalize()
                .with_context(|| format!("cannot find {}", path.display()))
        };
        Ok(Self {
            kube_apiserver: program("kube-apiserver")?,
            etcd: program("etcd")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let directory = env::temp_dir().join(format!("overlay-assets-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("kube-apiserver"), "").unwrap();
        let incomplete = Binaries::in_directory(&directory).unwrap_err().to_string();
        fs::write(directory.join("etcd"), "").unwrap();
        let complete = Binaries::in_directory(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!(incomplete.contains("no file etcd"), "{incomplete}");
        assert!(complete.unwrap().etcd.ends_with("etcd"));
    }
}
