//! How etcd and kube-apiserver are started.

use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::{ApiServerOptions, Binaries, PORT, audit, credentials};
use crate::exec::Process;
use crate::holder::DIRECTORY;
use crate::space::Space;

/// etcd's address for its one client, on the loopback of the server's namespace.
pub(super) const ETCD: &str = "127.0.0.1:2379";
pub(super) const ETCD_LOG: &str = "etcd.log";
pub(super) const SERVER_LOG: &str = "kube-apiserver.log";

/// Starts etcd with its data on the namespace's tmpfs.
pub(super) fn etcd(space: &Space, binaries: &Binaries) -> Result<Process> {
    let words = [
        binaries.etcd.display().to_string(),
        format!("--data-dir={DIRECTORY}/etcd"),
        format!("--listen-client-urls=http://{ETCD}"),
        format!("--advertise-client-urls=http://{ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // 15,000 large nodes that change often exceed the default of 2 GiB.
        format!("--quota-backend-bytes={}", 8_u64 << 30),
    ];
    start(space, &words, ETCD_LOG)
}

/// Starts kube-apiserver for clients on all addresses of the namespace.
pub(super) fn kube_apiserver(
    space: &Space,
    binaries: &Binaries,
    address: Ipv4Addr,
    options: &ApiServerOptions,
) -> Result<Process> {
    let file = |name: &str| format!("{DIRECTORY}/{name}");
    let mut words = vec![
        binaries.kube_apiserver.display().to_string(),
        format!("--etcd-servers=http://{ETCD}"),
        // Compaction is the test's business.
        "--etcd-compaction-interval=0".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={PORT}"),
        format!("--advertise-address={address}"),
        "--endpoint-reconciler-type=none".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // It wants a controller that makes tokens before a pod may be created.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--token-auth-file={}", file(credentials::TOKENS)),
        format!("--client-ca-file={}", file(credentials::CA)),
        format!("--tls-cert-file={}", file(credentials::SERVER_CERTIFICATE)),
        format!("--tls-private-key-file={}", file(credentials::SERVER_KEY)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!(
            "--service-account-key-file={}",
            file(credentials::SERVICE_ACCOUNT_PUBLIC_KEY)
        ),
        format!(
            "--service-account-signing-key-file={}",
            file(credentials::SERVICE_ACCOUNT_KEY)
        ),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--watch-cache={}", options.watch_cache),
    ];
    if options.audit {
        words.push(format!("--audit-policy-file={}", file(audit::POLICY)));
        words.push(format!("--audit-log-path={}", file(audit::LOG)));
        words.push("--audit-log-mode=blocking".to_owned());
    }
    words.extend(options.arguments.iter().cloned());
    start(space, &words, SERVER_LOG)
}

fn start(space: &Space, words: &[String], log: &str) -> Result<Process> {
    let path = space.path_from_outside(&Path::new(DIRECTORY).join(log));
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    space.spawn(words, Stdio::from(log.try_clone()?), Stdio::from(log))
}
