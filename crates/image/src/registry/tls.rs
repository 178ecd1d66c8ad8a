//! TLS for one endpoint: the system's roots, those of `hosts.toml`, client certificates.

use super::{error::RegistryError, hosts::TlsSettings};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use std::{path::Path, sync::Arc};
use sys::bounded::Bounded;

const MAX_PEM: u64 = 4 << 20;

/// The configuration for an endpoint's own host (`own`), or for the others that it sends us to: they get
/// its further roots, but neither its client certificate nor its leave to skip the verification.
///
/// Reads files: call it where that may block.
pub(super) fn config(settings: &TlsSettings, own: bool) -> Result<Arc<ClientConfig>, RegistryError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions");
    let builder = if own && settings.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        builder.with_root_certificates(roots(&settings.ca)?)
    };
    let client = if own { settings.client.first() } else { None };
    let Some((certificate, key)) = client else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let chain = certificates(certificate)?;
    let key_file = key.as_ref().unwrap_or(certificate);
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|e| bad(key_file, &e))?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|e| bad(certificate, &e))?;
    Ok(Arc::new(config))
}

fn roots(further: &[std::path::PathBuf]) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "a certificate of the system cannot be read");
    }
    // One odd certificate of the system does not make the others useless.
    roots.add_parsable_certificates(system.certs);
    for path in further {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| bad(path, &e))?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let all = all.map_err(|e| bad(path, &e))?;
    if all.is_empty() { Err(bad(path, &"it holds no certificate")) } else { Ok(all) }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let file = std::fs::File::open(path).map_err(|e| bad(path, &e))?;
    Bounded::new(file, MAX_PEM).read_all().map_err(|e| bad(path, &e))
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Certificate { path: path.to_owned(), why: why.to_string() }
}

/// `skip_verify`: any certificate, but still the handshake's own signatures.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
