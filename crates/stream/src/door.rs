//! The daemon's way to the stream server: found, adopted, started, replaced.
//!
//! ```text
//! no server ----start----> ours <---adopted--- left by an earlier daemon, same version and settings
//!                           ^
//!                           | its last session has ended
//!                          another version or other settings, busy: it goes on granting
//! ```
//! A server is never replaced under its sessions: as long as it has one, it also gets the new ones.

use crate::{
    control::{Answer, Ask, ask},
    ticket::Ticket,
};
use std::{fmt, future::Future, io, path::PathBuf, pin::Pin, time::Duration};

/// How often a server that is about to end is asked again.
const TRIES: usize = 4;

/// Who gives out URLs of sessions.
pub trait Sessions: Send + Sync {
    /// The URL of a session: good once, for a minute.
    fn grant(&self, ticket: Ticket) -> Pin<Box<dyn Future<Output = Result<String, GrantError>> + Send + '_>>;
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// As many as may be wait for their clients.
    #[error("1000 sessions wait for their clients; try again when one has come or its minute is over")]
    Full,
    /// The server does not want to.
    #[error("the stream server refuses: {0}")]
    Refused(String),
    /// It cannot be reached or started.
    #[error("the stream server cannot be {doing}")]
    Unreachable {
        /// What was tried.
        doing: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The door to one stream server.
pub struct Door {
    socket: PathBuf,
    version: String,
    settings: String,
    start: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    /// The server that is known to be ours, by its address.
    base: tokio::sync::Mutex<Option<String>>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn unreachable(doing: &'static str) -> impl FnOnce(io::Error) -> GrantError {
    move |source| GrantError::Unreachable { doing, source }
}

impl Door {
    /// To the server whose control socket that is. `start` makes one with this version and these
    /// settings: when it returns, the socket can be connected to.
    pub fn new(
        socket: PathBuf,
        version: impl Into<String>,
        settings: impl Into<String>,
        start: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> Door {
        Door {
            socket,
            version: version.into(),
            settings: settings.into(),
            start: Box::new(start),
            base: tokio::sync::Mutex::default(),
        }
    }

    /// Ends the server, whatever it does, and waits until nobody listens any more; none is fine.
    pub async fn end(&self) {
        *self.base.lock().await = None;
        let mut question = Ask::End;
        loop {
            match ask(&self.socket, &question).await {
                Ok(_) => question = Ask::Hello,
                Err(error) if is_absent(&error) => return,
                // It went while it was asked.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return tracing::warn!(%error, "the stream server does not end");
                }
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn session(&self, ticket: Ticket) -> Result<String, GrantError> {
        // One at a time: two must not start two servers.
        let mut known = self.base.lock().await;
        let question = Ask::Grant(ticket);
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for _ in 0..TRIES {
            let base = match &*known {
                Some(base) => base.clone(),
                None => {
                    let (base, ours) = self.find().await?;
                    *known = ours.then(|| base.clone());
                    base
                }
            };
            match ask(&self.socket, &question).await {
                Ok(Answer::Granted { path }) => return Ok(base + &path),
                Ok(Answer::Full) => return Err(GrantError::Full),
                Ok(Answer::Refused { reason }) => return Err(GrantError::Refused(reason)),
                Ok(Answer::Ends) => *known = None,
                Ok(answer @ (Answer::Hello(_) | Answer::Busy)) => {
                    return Err(GrantError::Refused(format!("a wrong answer: {answer:?}")));
                }
                Err(error) => {
                    *known = None;
                    last = error;
                }
            }
        }
        Err(unreachable("asked")(last))
    }

    /// The address of a server that grants, and whether it is ours.
    async fn find(&self) -> Result<(String, bool), GrantError> {
        let mut started = false;
        for _ in 0..TRIES {
            match ask(&self.socket, &Ask::Hello).await {
                Ok(Answer::Hello(who)) => {
                    if who.version == self.version && who.settings == self.settings {
                        return Ok((who.base, true));
                    }
                    // Nothing is lost with an idle one, nor if the question fails.
                    if !matches!(ask(&self.socket, &Ask::EndIfIdle).await, Ok(Answer::Ends)) {
                        tracing::info!(
                            version = who.version,
                            "a stream server of another version or other settings has sessions and goes on"
                        );
                        return Ok((who.base, false));
                    }
                }
                Ok(Answer::Refused { reason }) => return Err(GrantError::Refused(reason)),
                Ok(answer @ (Answer::Granted { .. } | Answer::Full | Answer::Busy)) => {
                    return Err(GrantError::Refused(format!("a wrong answer: {answer:?}")));
                }
                Ok(Answer::Ends) => {}
                Err(error) if started && !is_absent(&error) => return Err(unreachable("asked")(error)),
                Err(error) => tracing::debug!(%error, "no stream server: one is started"),
            }
            (self.start)().map_err(unreachable("started"))?;
            started = true;
        }
        Err(unreachable("started")(io::ErrorKind::NotConnected.into()))
    }
}

impl Sessions for Door {
    fn grant(&self, ticket: Ticket) -> Pin<Box<dyn Future<Output = Result<String, GrantError>> + Send + '_>> {
        Box::pin(self.session(ticket))
    }
}

/// Whether nobody listens there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{Attendant, Identity, attend},
        ticket::Forward,
        tokens::Tokens,
    };
    use std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tokio::net::UnixListener;

    /// A server in this process: ended by dropping its listener.
    struct Server {
        identity: Identity,
        tokens: Tokens,
        ended: tokio::sync::Notify,
    }

    impl Attendant for Server {
        fn identity(&self) -> Identity {
            self.identity.clone()
        }
        fn tokens(&self) -> &Tokens {
            &self.tokens
        }
        fn end_if_idle(&self) -> bool {
            let idle = self.tokens.close_if_empty();
            if idle {
                self.ended.notify_one();
            }
            idle
        }
        fn end(&self) {
            self.ended.notify_one();
        }
    }

    fn start(socket: &Path, version: &str, base: String) -> io::Result<Arc<Server>> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        let identity = Identity { version: version.to_owned(), settings: "s".to_owned(), base };
        let server = Arc::new(Server { identity, tokens: Tokens::default(), ended: Default::default() });
        let own = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = own.ended.notified() => return,
                    Ok((stream, _)) = listener.accept() => { let _ = attend(stream, &*own).await; }
                }
            }
        });
        Ok(server)
    }

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let place = std::env::temp_dir().join(format!("peapod-test-door-{}-{name}", std::process::id()));
            Place(place)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn door(place: &Place, version: &'static str) -> (Door, Arc<AtomicUsize>) {
        let starts = Arc::new(AtomicUsize::new(0));
        let (counter, socket) = (Arc::clone(&starts), place.0.clone());
        let door = Door::new(place.0.clone(), version, "s", move || {
            let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
            start(&socket, version, format!("http://{version}-{number}")).map(drop)
        });
        (door, starts)
    }

    fn ticket() -> Ticket {
        Ticket::Forward(Forward { netns: None, ports: vec![] })
    }

    #[tokio::test]
    async fn a_server_is_started_once_and_adopted_by_the_next_daemon() {
        let place = Place::new("adopted");
        let (door, starts) = self::door(&place, "1");
        let first = door.grant(ticket()).await.expect("granted");
        assert!(first.starts_with("http://1-1/portforward/"), "{first}");
        assert_ne!(door.grant(ticket()).await.expect("granted"), first);
        let (next, more) = self::door(&place, "1");
        let url = next.grant(ticket()).await.expect("granted");
        assert!(url.starts_with("http://1-1/"), "{url}");
        assert_eq!((starts.load(Ordering::Relaxed), more.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test]
    async fn a_server_that_died_is_started_anew() {
        let place = Place::new("died");
        let (door, starts) = self::door(&place, "1");
        door.grant(ticket()).await.expect("granted");
        door.end().await;
        let url = door.grant(ticket()).await.expect("granted");
        assert!(url.starts_with("http://1-2/"), "{url}");
        assert_eq!(starts.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn another_version_is_replaced_only_when_it_is_idle() {
        let place = Place::new("replaced");
        let old = start(&place.0, "0", "http://old".to_owned()).expect("start");
        let waiting = old.tokens.grant(ticket()).expect("room");
        let (door, starts) = self::door(&place, "1");
        let url = door.grant(ticket()).await.expect("granted");
        assert!(url.starts_with("http://old/"), "{url}");
        assert_eq!(starts.load(Ordering::Relaxed), 0);
        let token = url.rsplit('/').next().expect("token");
        for token in [token, &waiting] {
            assert!(old.tokens.take(crate::tokens::Kind::Forward, token).is_some());
        }
        let url = door.grant(ticket()).await.expect("granted");
        assert!(url.starts_with("http://1-1/"), "{url}");
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_is_told_with_the_cause() {
        let place = Place::new("broken");
        let door = Door::new(place.0.clone(), "1", "s", || Err(io::Error::other("no such program")));
        let error = door.grant(ticket()).await.expect_err("no server");
        assert_eq!(error.to_string(), "the stream server cannot be started");
        assert_eq!(std::error::Error::source(&error).expect("cause").to_string(), "no such program");
    }

    #[tokio::test]
    async fn too_many_sessions_are_told_as_such() {
        let place = Place::new("full");
        let server = start(&place.0, "1", "http://full".to_owned()).expect("start");
        while server.tokens.grant(ticket()).is_ok() {}
        let (door, _) = self::door(&place, "1");
        assert!(matches!(door.grant(ticket()).await, Err(GrantError::Full)));
    }
}
