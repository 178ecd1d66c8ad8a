//! TLS of the stream server.

use anyhow::Context as _;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use std::{path::Path, sync::Arc};

/// The server's side with that certificate chain and key, both PEM.
///
/// # Errors
/// A file cannot be read, holds nothing of use, or the two do not fit.
pub(super) fn server(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("streaming.tls_cert: {} cannot be used", cert.display()))?;
    anyhow::ensure!(!chain.is_empty(), "streaming.tls_cert: {} holds no certificate", cert.display());
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("streaming.tls_key: {} cannot be used", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be used")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("streaming.tls_key does not fit streaming.tls_cert")?;
    Ok(Arc::new(config))
}
