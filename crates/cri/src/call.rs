//! The layer around each call: a span, a panic caught, a deadline kept, and a caller who may leave.
//!
//! Each call runs in a task of its own. So a caller that goes away does not cut work in half (the
//! kubelet retries and joins it), a panic ends one call and not the connection, and an expired
//! `grpc-timeout` is answered with DeadlineExceeded: tonic itself would answer CANCELLED and drop
//! the handler. [`Caller`] tells the few handlers that should stop when nobody waits any more.

use http::{Request, Response};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::watch;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

/// tonic's own timer for the same header must not fire first.
const AHEAD_OF_TONIC: Duration = Duration::from_millis(1);

/// Found in a request's extensions: is there still somebody who waits for the answer?
#[derive(Clone, Debug)]
pub struct Caller(watch::Receiver<()>);

impl Caller {
    /// Ends when the caller has left or its deadline has passed.
    pub async fn gone(&mut self) {
        // The sender is dropped with the response future; no value is ever sent.
        while self.0.changed().await.is_ok() {}
    }
}

/// Makes [`Call`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CallLayer;

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;
    fn layer(&self, inner: S) -> Call<S> {
        Call { inner }
    }
}

/// The service with the layer around it.
#[derive(Clone, Debug)]
pub struct Call<S> {
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Call<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The ready service is the one that was polled; its clone takes the place.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
        let (stay, seen) = watch::channel(());
        request.extensions_mut().insert(Caller(seen));
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let limit = request.headers().get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(timeout);
        let span = tracing::info_span!("call", method);
        let work = tokio::spawn(async move { ready.call(request).await }.instrument(span.clone()));
        Box::pin(
            async move {
                let _stay = stay;
                let finished = match limit {
                    Some(limit) => tokio::time::timeout(limit.saturating_sub(AHEAD_OF_TONIC), work).await,
                    None => Ok(work.await),
                };
                match finished {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(ended)) => {
                        tracing::error!(error = %ended, "a call panicked");
                        Ok(Status::internal(format!(
                            "{method}: the handler panicked; the daemon's log says where"
                        ))
                        .into_http())
                    }
                    Err(_) => Ok(Status::deadline_exceeded(format!(
                        "{method}: the caller's deadline has passed; the work goes on and a retry joins it"
                    ))
                    .into_http()),
                }
            }
            .instrument(span),
        )
    }
}

/// `grpc-timeout`: at most 8 digits and a unit (gRPC over HTTP/2, "Requests").
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tonic::Code;
    use tower::ServiceExt as _;

    fn request(timeout: Option<&str>) -> Request<Body> {
        let mut builder = Request::builder().uri("/runtime.v1.ImageService/PullImage");
        if let Some(timeout) = timeout {
            builder = builder.header("grpc-timeout", timeout);
        }
        builder.body(Body::empty()).expect("a request")
    }

    fn code(response: &Response<Body>) -> Option<Code> {
        response.headers().get("grpc-status").map(|v| Code::from_bytes(v.as_bytes()))
    }

    #[tokio::test]
    async fn an_expired_deadline_is_deadline_exceeded_and_the_work_goes_on() {
        let (done, mut finished) = tokio::sync::mpsc::channel(1);
        let slow = tower::service_fn(move |_: Request<Body>| {
            let done = done.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                done.send(()).await.expect("the test listens");
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let answer = CallLayer.layer(slow).oneshot(request(Some("1m"))).await.expect("answered");
        assert_eq!(code(&answer), Some(Code::DeadlineExceeded));
        finished.recv().await.expect("the handler was not dropped");
    }

    #[tokio::test]
    async fn a_panic_ends_one_call_with_internal() {
        let broken = tower::service_fn(|_: Request<Body>| async {
            assert!(std::hint::black_box(false), "a bug");
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let answer = CallLayer.layer(broken).oneshot(request(None)).await.expect("answered");
        assert_eq!(code(&answer), Some(Code::Internal));
    }

    #[tokio::test]
    async fn a_handler_learns_that_its_caller_has_left() {
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        let watching = tower::service_fn(move |request: Request<Body>| {
            let told = told.clone();
            async move {
                let mut caller =
                    request.extensions().get::<Caller>().cloned().expect("the layer put it there");
                caller.gone().await;
                told.send(()).await.expect("the test listens");
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let call = CallLayer.layer(watching).oneshot(request(None));
        assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err(), "nobody has left yet");
        heard.recv().await.expect("told after the call was dropped");
    }

    #[test]
    fn timeouts_parse_by_unit() {
        for (text, want) in
            [("1m", Some(1)), ("2S", Some(2000)), ("3M", Some(180_000)), ("1H", Some(3_600_000))]
        {
            assert_eq!(timeout(text), want.map(Duration::from_millis), "{text}");
        }
        for bad in ["", "m", "123456789S", "-1S", "1x", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
