//! TLS 1.3 with bare Ed25519 keys (RFC 7250) on both sides. Who is who is decided by the key alone.

use std::{io, net::TcpStream, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, ServerConnection, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption, danger::HandshakeSignatureValid,
        danger::ServerCertVerified, danger::ServerCertVerifier,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{AlwaysResolvesServerRawPublicKeys, danger::ClientCertVerified, danger::ClientCertVerifier},
    version::TLS13,
};

use super::keys::{Key, id_of};
use crate::base::{Clock as _, KeyId, SystemClock};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A session of two stores that know each other.
    Session,
    /// An invite is shown.
    Pairing,
}

impl Purpose {
    fn name(self) -> Vec<u8> {
        match self {
            Self::Session => b"segfs/1".to_vec(),
            Self::Pairing => b"segfs-pair/1".to_vec(),
        }
    }
}

/// Which key the other side must have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expect {
    /// This one.
    Key(KeyId),
    /// One whose name begins so.
    Start([u8; 16]),
}

/// Looks at keys. Whoever listens takes any at first: what it may do is decided when it has proved that it has it.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    expect: Option<Expect>,
    seen: Mutex<Option<KeyId>>,
}

impl Verifier {
    fn look(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let id = id_of(key.as_ref()).ok_or(CertificateError::BadEncoding)?;
        *self.seen.lock() = Some(id);
        let fits = match self.expect {
            None => true,
            Some(Expect::Key(expected)) => id == expected,
            Some(Expect::Start(start)) => id.bytes().starts_with(&start),
        };
        if fits { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn signed(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }
}

fn only_13() -> Error {
    Error::General("only TLS 1.3 is spoken".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.look(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.look(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A connection with somebody who has proved to have this key.
pub(super) struct Secured {
    pub(super) tls: Connection,
    pub(super) socket: TcpStream,
    pub(super) who: KeyId,
    pub(super) purpose: Purpose,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// The other side has another key than the one that was pinned.
    #[error("it has the key {found}")]
    WrongKey {
        /// Its key.
        found: KeyId,
    },
    /// Whatever the system or TLS says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn verifier(expect: Option<Expect>) -> (Arc<CryptoProvider>, Arc<Verifier>) {
    let provider = ring::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    (Arc::new(provider), Arc::new(Verifier { algorithms, expect, seen: Mutex::default() }))
}

fn tls(e: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// Secures a connection that was dialed.
pub(super) fn dial(
    socket: TcpStream,
    key: &Key,
    expect: Expect,
    purpose: Purpose,
    patience: Duration,
) -> Result<Secured, NoConnection> {
    let (provider, verifier) = verifier(Some(expect));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
            &key.certified,
        ))));
    config.alpn_protocols = vec![purpose.name()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let name = ServerName::try_from("segfs").map_err(io::Error::other)?;
    let conn = ClientConnection::new(Arc::new(config), name).map_err(tls)?;
    secure(Connection::from(conn), socket, patience).map_err(|e| {
        let wrong = verifier.seen.lock().filter(|id| match expect {
            Expect::Key(expected) => *id != expected,
            Expect::Start(start) => !id.bytes().starts_with(&start),
        });
        wrong.map_or_else(|| e.into(), |found| NoConnection::WrongKey { found })
    })
}

/// Secures a connection that was taken.
pub(super) fn take(socket: TcpStream, key: &Key, patience: Duration) -> io::Result<Secured> {
    let (provider, verifier) = verifier(None);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&key.certified))));
    config.alpn_protocols = vec![Purpose::Session.name(), Purpose::Pairing.name()];
    config.send_tls13_tickets = 0;
    let conn = ServerConnection::new(Arc::new(config)).map_err(tls)?;
    secure(Connection::from(conn), socket, patience)
}

/// A moment after which nothing is waited for.
pub(super) struct Until(u64);

impl Until {
    pub(super) fn within(patience: Duration) -> Self {
        Self(SystemClock.monotonic_ns().saturating_add(patience.as_nanos() as u64))
    }

    /// Has the socket wait no longer than that.
    pub(super) fn hold(&self, socket: &TcpStream) -> io::Result<()> {
        let left = self.0.saturating_sub(SystemClock.monotonic_ns());
        if left == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Some(Duration::from_nanos(left));
        socket.set_read_timeout(left)?;
        socket.set_write_timeout(left)
    }
}

/// Once more, where a signal came between: a system call on a socket with a timeout is not begun again by itself.
pub(super) fn again<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn secure(mut conn: Connection, socket: TcpStream, patience: Duration) -> io::Result<Secured> {
    socket.set_nodelay(true)?;
    let until = Until::within(patience);
    let mut stream = &socket;
    while conn.is_handshaking() || conn.wants_write() {
        until.hold(&socket)?;
        if conn.wants_write() {
            again(|| conn.write_tls(&mut stream))?;
        } else if again(|| conn.read_tls(&mut stream))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        } else if let Err(e) = conn.process_new_packets() {
            // Says why.
            let _ = conn.write_tls(&mut stream);
            return Err(tls(e));
        }
    }
    let who = conn.peer_certificates().and_then(|c| id_of(c.first()?.as_ref()));
    let who = who.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has shown no key"))?;
    let purpose = [Purpose::Session, Purpose::Pairing]
        .into_iter()
        .find(|p| conn.alpn_protocol() == Some(&p.name()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it wants nothing that is known here"))?;
    Ok(Secured { tls: conn, socket, who, purpose })
}
