//! The client of the API server, configured as client-go's `BuildConfigFromFlags` does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Uri;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::Kubeconfig;
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// A connection attempt that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed after this…
const KEEPALIVE: Duration = Duration::from_secs(20);
/// …this often…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// …and is dead after so many probes without an answer.
const KEEPALIVE_PROBES: u32 = 4;

/// A client for `api_url` with what `kubeconfig` says; with the service account of the pod when both are absent.
///
/// As in client-go the URL replaces that of the kubeconfig, and a URL alone means no credentials. Connects when the
/// first request is made, and again whenever needed. Must be called inside a tokio runtime.
///
/// # Errors
///
/// When there is no usable configuration: which file, which field, and what is expected.
pub fn connect(api_url: Option<&str>, kubeconfig: Option<&Path>) -> Result<Client> {
    let config = config(
        api_url.filter(|url| !url.is_empty()),
        kubeconfig.filter(|path| !path.as_os_str().is_empty()),
    )?;
    log::info!("API server {}", config.cluster_url);
    client(&config)
}

fn config(api_url: Option<&str>, kubeconfig: Option<&Path>) -> Result<Config> {
    let Some(path) = kubeconfig else {
        let Some(url) = api_url else {
            return Config::incluster().context(
                "cannot use the pod's service account, and neither --kube-api-url nor --kubeconfig-file is given",
            );
        };
        return Ok(Config::new(parse_url(url)?));
    };
    from_kubeconfig(api_url, path).with_context(|| format!("--kubeconfig-file {}", path.display()))
}

fn from_kubeconfig(api_url: Option<&str>, path: &Path) -> Result<Config> {
    let mut kubeconfig = Kubeconfig::read_from(path)?;
    if let Some(url) = api_url {
        override_server(&mut kubeconfig, url)?;
    }
    let mut clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|cluster| cluster.cluster.as_ref());
    if let Some(proxy) = clusters.find_map(|cluster| cluster.proxy_url.as_deref())
        && !proxy.is_empty()
    {
        bail!("proxy-url {proxy}: this version does not reach the API server through a proxy; remove it");
    }
    let mut config = Config::try_from(kubeconfig)?;
    if let Some(proxy) = config.proxy_url.take() {
        log::warn!("HTTPS_PROXY is {proxy}: this version does not use it for the API server");
    }
    Ok(config)
}

/// client-go's `ConfigOverrides{ClusterInfo{Server}}`.
fn override_server(kubeconfig: &mut Kubeconfig, url: &str) -> Result<()> {
    let url = parse_url(url)?.to_string();
    for cluster in &mut kubeconfig.clusters {
        if let Some(cluster) = &mut cluster.cluster {
            cluster.server = Some(url.clone());
        }
    }
    Ok(())
}

fn parse_url(url: &str) -> Result<Uri> {
    let wrong = || format!("--kube-api-url `{url}`: expected a URL, like https://10.0.0.1:6443");
    let uri: Uri = with_scheme(url).parse().with_context(wrong)?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => bail!(wrong()),
    }
}

/// client-go takes `host:port` for HTTP.
fn with_scheme(url: &str) -> String {
    if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    }
}

/// kube's own stack, without its retries (each caller has its own, with one message), and with keep-alive probes: a
/// server that vanishes without a word is noticed.
fn client(config: &Config) -> Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(KEEPALIVE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES));
    let connector = config
        .rustls_https_connector_with_connector(connector)
        .context("cannot set up TLS to the API server")?;
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("cannot use the credentials")?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: agent}}]
clusters: [{name: here, cluster: {server: 'https://10.0.0.1:6443'}}]
users: [{name: agent, user: {token: secret}}]
";

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_url_replaces_that_of_the_kubeconfig() {
        let file = written(KUBECONFIG);
        let server = |url| config(url, Some(file.path())).unwrap().cluster_url.to_string();
        assert_eq!(server(None), "https://10.0.0.1:6443/");
        assert_eq!(server(Some("https://10.0.0.2:443")), "https://10.0.0.2:443/");
        assert_eq!(server(Some("10.0.0.2:8080")), "http://10.0.0.2:8080/");
    }

    #[test]
    fn a_url_alone_means_no_credentials() {
        let config = config(Some("127.0.0.1:8080"), None).unwrap();
        assert_eq!(config.cluster_url.to_string(), "http://127.0.0.1:8080/");
        assert!(config.auth_info.token.is_none() && config.auth_info.token_file.is_none());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let message = |url, path: Option<&Path>| format!("{:#}", config(url, path).unwrap_err());
        for url in ["ftp://10.0.0.1", "https://", "https://a b", "/socket"] {
            let text = message(Some(url), None);
            assert!(text.contains("expected a URL") && text.contains(url), "{text}");
        }
        let missing = message(None, Some(Path::new("/does/not/exist")));
        assert!(
            missing.starts_with("--kubeconfig-file /does/not/exist: "),
            "{missing}"
        );
        let proxied = written(&KUBECONFIG.replace("6443'", "6443', proxy-url: 'http://proxy:3128'"));
        assert!(message(None, Some(proxied.path())).contains("proxy-url http://proxy:3128"));
        let empty = written("");
        assert!(message(None, Some(empty.path())).starts_with("--kubeconfig-file "));
    }
}
