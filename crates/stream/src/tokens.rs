//! Tokens: what a client brings to get the session that was checked for it.
//!
//! A token is 128 random bits, good once and for one minute; there is no other authentication
//! (contract of the CRI's streaming server), so it must not be guessed, and a used one is forgotten.

use crate::ticket::Ticket;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a client may take to come.
const LIFE: Duration = Duration::from_secs(60);
/// Tokens that wait for their client at the same time; as many as the Go server takes
/// (kubernetes:staging/src/k8s.io/cri-streaming/pkg/streaming/request_cache.go).
const MOST: usize = 1000;
/// Bytes of randomness in a token.
const BYTES: usize = 16;

/// The first part of the path that a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/exec/TOKEN`
    Exec,
    /// `/attach/TOKEN`
    Attach,
    /// `/portforward/TOKEN`
    Forward,
}

impl Kind {
    /// Its name in a path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Kind::Exec => "exec",
            Kind::Attach => "attach",
            Kind::Forward => "portforward",
        }
    }

    /// The kind with that name in a path.
    #[must_use]
    pub fn of_path(name: &str) -> Option<Kind> {
        [Kind::Exec, Kind::Attach, Kind::Forward].into_iter().find(|kind| kind.path() == name)
    }
}

impl Ticket {
    /// Where its token is good.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Ticket::Exec(_) => Kind::Exec,
            Ticket::Attach(_) => Kind::Attach,
            Ticket::Forward(_) => Kind::Forward,
        }
    }
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// As many as may be wait for their clients.
    #[error("{MOST} sessions wait for their clients; try again when one has come or its minute is over")]
    Full,
    /// The server is about to end and takes no more.
    #[error("the stream server ends")]
    Closed,
}

/// The tokens that wait for their clients.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    tickets: HashMap<String, Ticket>,
    /// In the order in which they end; a used one stays until its time.
    ends: VecDeque<(Instant, String)>,
    closed: bool,
}

impl Waiting {
    fn sweep(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, token)) = self.ends.pop_front() {
                self.tickets.remove(&token);
            }
        }
        // Used ones that pile up before their time is over.
        if self.ends.len() > 2 * MOST {
            let tickets = &self.tickets;
            self.ends.retain(|(_, token)| tickets.contains_key(token));
        }
    }
}

impl Tokens {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each change is one call on a map: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token for this session.
    ///
    /// # Errors
    /// [`NoToken`].
    pub fn grant(&self, ticket: Ticket) -> Result<String, NoToken> {
        self.grant_at(ticket, Instant::now())
    }

    /// The session of this token, once; none if it is wrong, used, too old or of another kind.
    #[must_use]
    pub fn take(&self, kind: Kind, token: &str) -> Option<Ticket> {
        self.take_at(kind, token, Instant::now())
    }

    /// How many wait for their clients.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut waiting = self.waiting();
        waiting.sweep(Instant::now());
        waiting.tickets.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more if none waits; whether that is so. From then on [`Tokens::grant`] refuses, so that
    /// nobody is sent to a server that ends.
    pub fn close_if_empty(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.sweep(Instant::now());
        waiting.closed |= waiting.tickets.is_empty();
        waiting.closed
    }

    fn grant_at(&self, ticket: Ticket, now: Instant) -> Result<String, NoToken> {
        let mut waiting = self.waiting();
        waiting.sweep(now);
        if waiting.closed {
            return Err(NoToken::Closed);
        }
        if waiting.tickets.len() >= MOST {
            return Err(NoToken::Full);
        }
        let token = random_token();
        waiting.tickets.insert(token.clone(), ticket);
        waiting.ends.push_back((now + LIFE, token.clone()));
        Ok(token)
    }

    fn take_at(&self, kind: Kind, token: &str, now: Instant) -> Option<Ticket> {
        let mut waiting = self.waiting();
        waiting.sweep(now);
        if waiting.tickets.get(token)?.kind() != kind {
            return None;
        }
        waiting.tickets.remove(token)
    }
}

/// 22 characters of base64url.
fn random_token() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        // Interrupted, or early at boot: it is asked again.
        let flags = sys::rustix::rand::GetRandomFlags::empty();
        filled += sys::rustix::rand::getrandom(&mut bytes[filled..], flags).unwrap_or(0);
    }
    let number = u128::from_be_bytes(bytes);
    let digit = |place: u32| {
        let index = usize::try_from(number >> (6 * place) & 63).unwrap_or_default();
        char::from(DIGITS[index])
    };
    (0..22).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Forward;

    fn ticket(port: u16) -> Ticket {
        Ticket::Forward(Forward { netns: None, ports: vec![port] })
    }

    #[test]
    fn a_token_is_good_once_and_only_for_its_kind() {
        let tokens = Tokens::default();
        let token = tokens.grant(ticket(1)).expect("room");
        assert_eq!(tokens.take(Kind::Exec, &token), None);
        assert_eq!(tokens.take(Kind::Forward, "AAAAAAAAAAAAAAAAAAAAAA"), None);
        assert_eq!(tokens.take(Kind::Forward, &token), Some(ticket(1)));
        assert_eq!(tokens.take(Kind::Forward, &token), None);
    }

    #[test]
    fn a_token_ends_after_a_minute() {
        let tokens = Tokens::default();
        let start = Instant::now();
        let (first, second) = (
            tokens.grant_at(ticket(1), start).expect("room"),
            tokens.grant_at(ticket(2), start + Duration::from_secs(30)).expect("room"),
        );
        assert_eq!(tokens.take_at(Kind::Forward, &first, start + LIFE), None);
        assert_eq!(tokens.take_at(Kind::Forward, &second, start + LIFE), Some(ticket(2)));
    }

    #[test]
    fn tokens_are_bounded_and_room_comes_back() {
        let tokens = Tokens::default();
        let start = Instant::now();
        let granted: Vec<String> =
            (0..MOST).map(|_| tokens.grant_at(ticket(1), start).expect("room")).collect();
        assert_eq!(tokens.grant_at(ticket(1), start), Err(NoToken::Full));
        assert!(tokens.take_at(Kind::Forward, &granted[7], start).is_some());
        assert!(tokens.grant_at(ticket(1), start).is_ok());
        assert_eq!(tokens.grant_at(ticket(1), start), Err(NoToken::Full));
        assert!(tokens.grant_at(ticket(1), start + LIFE).is_ok());
    }

    #[test]
    fn used_tokens_do_not_pile_up() {
        let tokens = Tokens::default();
        let start = Instant::now();
        for _ in 0..10 * MOST {
            let token = tokens.grant_at(ticket(1), start).expect("room");
            assert!(tokens.take_at(Kind::Forward, &token, start).is_some());
        }
        assert!(tokens.waiting().ends.len() <= 2 * MOST + 1);
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let many: std::collections::HashSet<String> = (0..1000).map(|_| random_token()).collect();
        assert_eq!(many.len(), 1000);
        assert!(many.iter().all(|token| token.len() == 22 && !token.contains('/')));
    }

    #[test]
    fn closed_tokens_are_refused_only_when_none_waits() {
        let tokens = Tokens::default();
        let token = tokens.grant(ticket(1)).expect("room");
        assert!(!tokens.close_if_empty());
        assert!(tokens.take(Kind::Forward, &token).is_some());
        assert!(tokens.close_if_empty());
        assert_eq!(tokens.grant(ticket(1)), Err(NoToken::Closed));
    }
}
