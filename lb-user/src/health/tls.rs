//! TLS of probes: by the machine's certificate authorities, or without looking at certificates.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::ProbeTarget;

/// Agrees on TLS for the name in the `Host` header.
pub(super) async fn connect(
    stream: TcpStream,
    target: &ProbeTarget,
    verify: bool,
) -> io::Result<TlsStream<TcpStream>> {
    let name = server_name(target);
    TlsConnector::from(config(verify)?).connect(name, stream).await
}

/// The host of the header, without its port; the address where that is none.
fn server_name(target: &ProbeTarget) -> ServerName<'static> {
    let header = target.host_header.as_str();
    let host = match header.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        _ => header,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = || ServerName::from(target.address.ip());
    match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned()).unwrap_or_else(|_| address()),
    }
}

/// What both kinds of probes share; read once, as certificate authorities seldom change.
fn config(verify: bool) -> io::Result<Arc<ClientConfig>> {
    static VERIFYING: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static TRUSTING: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let made = if verify { &VERIFYING } else { &TRUSTING };
    if let Some(config) = made.get() {
        return Ok(Arc::clone(config));
    }
    let config = Arc::new(if verify { verifying(authorities()?)? } else { trusting()? });
    Ok(Arc::clone(made.get_or_init(|| config)))
}

fn authorities() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let message =
            "this machine knows no certificate authority; install ca-certificates, or write verify: false";
        return Err(io::Error::other(message));
    }
    Ok(roots)
}

fn verifying(roots: RootCertStore) -> io::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn trusting() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let any = Arc::new(Any(provider));
    Ok(config.dangerous().with_custom_certificate_verifier(any).with_no_client_auth())
}

/// Takes any certificate, as `verify: false` says: the check asks whether the host works, not who it is.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    /// A server with a certificate for `www.example.org` that nobody has signed; answers one client.
    async fn server() -> (TcpListener, TlsAcceptor, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener, TlsAcceptor::from(Arc::new(config)), certificate)
    }

    fn target(listener: &TcpListener, host: &str) -> ProbeTarget {
        ProbeTarget { address: listener.local_addr().unwrap(), mark: None, host_header: host.into() }
    }

    /// Says `x` to the first client.
    async fn says_x(listener: TcpListener, acceptor: TlsAcceptor) {
        if let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await {
            let _ = stream.write_all(b"x").await;
            let _ = stream.shutdown().await;
        }
    }

    #[tokio::test]
    async fn a_certificate_is_looked_at_only_if_that_is_wanted() {
        for (verify, good) in [(false, true), (true, false)] {
            let (listener, acceptor, _) = server().await;
            let target = target(&listener, "www.example.org");
            let stream = TcpStream::connect(target.address).await.unwrap();
            let (connected, ()) = tokio::join!(connect(stream, &target, verify), says_x(listener, acceptor));
            assert_eq!(connected.is_ok(), good, "{:?}", connected.err());
            if let Ok(mut stream) = connected {
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
            }
        }
    }

    #[tokio::test]
    async fn a_good_certificate_is_one_for_the_name_in_the_header() {
        for (host, good) in [("www.example.org:8443", true), ("www.example.net", false), ("192.0.2.1", false)]
        {
            let (listener, acceptor, certificate) = server().await;
            let mut roots = RootCertStore::empty();
            roots.add(certificate).unwrap();
            let target = target(&listener, host);
            let stream = TcpStream::connect(target.address).await.unwrap();
            let connector = TlsConnector::from(Arc::new(verifying(roots).unwrap()));
            let connecting = connector.connect(server_name(&target), stream);
            let (connected, ()) = tokio::join!(connecting, says_x(listener, acceptor));
            assert_eq!(connected.is_ok(), good, "{host}: {:?}", connected.err());
        }
    }
}
