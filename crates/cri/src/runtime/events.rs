//! GetContainerEvents: always on, for any number of callers.
//!
//! The kubelet (KEP-3386) reads the pod's uid from the sandbox's status, and of all events heeds that
//! something has stopped. A caller that does not read is told so by the end of its stream, and gets
//! what it missed when it asks anew.

use super::{Runtime, lists::Items};
use crate::{render, status};
use api::cri;
use engine::{Event, EventKind, Host, Subscription};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio_stream::Stream;
use tonic::Status;

impl<H: Host> Runtime<H> {
    pub(super) fn events(&self) -> Items<cri::ContainerEventResponse> {
        Box::pin(Events(Some(self.engine.events())))
    }
}

/// `None` after the last item.
struct Events(Option<Subscription>);

impl Stream for Events {
    type Item = Result<cri::ContainerEventResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(subscription) = &mut self.0 else { return Poll::Ready(None) };
        match subscription.poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(event)) => Poll::Ready(Some(Ok(response(&event)))),
            Poll::Ready(Err(ended)) => {
                self.0 = None;
                Poll::Ready(Some(Err(status::of_ended_events(ended))))
            }
        }
    }
}

fn response(event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => cri::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at.0,
        pod_sandbox_status: Some(render::pod_status(&event.pod)),
        // What holds up a log is asked of the shim, which an event does not wait for.
        containers_statuses: event
            .containers
            .iter()
            .map(|container| render::container_status(container, None))
            .collect(),
    }
}
