//! Who may talk to the server: a certificate authority of its own, the administrator's token, client certificates.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

// Files in the server's directory.
pub(super) const CA: &str = "ca.pem";
pub(super) const SERVER_CERTIFICATE: &str = "server.pem";
pub(super) const SERVER_KEY: &str = "server-key.pem";
pub(super) const SERVICE_ACCOUNT_KEY: &str = "service-account-key.pem";
pub(super) const SERVICE_ACCOUNT_PUBLIC_KEY: &str = "service-account.pem";
pub(super) const TOKENS: &str = "tokens.csv";

/// The token of the administrator, who exists in this server only.
pub(super) const ADMIN_TOKEN: &str = "administrator-of-the-testbed";

/// A certificate with its key, PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// All keys of one server.
pub(super) struct Credentials {
    ca: Certificate,
    issuer: Issuer<'static, KeyPair>,
    server: Identity,
    service_account_key: KeyPair,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// New keys for a server that is reached at `address` and on its own loopback.
    pub(super) fn generate(address: Ipv4Addr) -> Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "testbed-ca");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = params
            .self_signed(&key)
            .context("cannot sign the authority's certificate")?;
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = [address, Ipv4Addr::LOCALHOST]
            .map(|address| SanType::IpAddress(IpAddr::V4(address)))
            .to_vec();
        let server = sign(&params, &issuer)?;
        let service_account_key = KeyPair::generate().context("cannot make a key")?;
        Ok(Self {
            ca,
            issuer,
            server,
            service_account_key,
        })
    }

    /// Writes the server's files into its directory.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let (key, public_key) = (
            self.service_account_key.serialize_pem(),
            self.service_account_key.public_key_pem(),
        );
        let tokens = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n");
        for (name, text) in [
            (CA, self.ca_pem().as_str()),
            (SERVER_CERTIFICATE, self.server.certificate.as_str()),
            (SERVER_KEY, self.server.key.as_str()),
            (SERVICE_ACCOUNT_KEY, key.as_str()),
            (SERVICE_ACCOUNT_PUBLIC_KEY, public_key.as_str()),
            (TOKENS, tokens.as_str()),
        ] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    pub(super) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    pub(super) fn ca_der(&self) -> Vec<u8> {
        self.ca.der().to_vec()
    }

    /// A client certificate for `user` in `group`.
    pub(super) fn client(&self, user: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        sign(&params, &self.issuer)
    }
}

fn sign(params: &CertificateParams, issuer: &Issuer<'static, KeyPair>) -> Result<Identity> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params
        .signed_by(&key, issuer)
        .context("cannot sign a certificate")?;
    Ok(Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}
