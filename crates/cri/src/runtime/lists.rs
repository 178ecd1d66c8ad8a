//! Lists in chunks (KEP-5825): the items of the lists of the same name, each once, and then the end.
//! A list without items is a stream without messages.
//!
//! What is listed is decided at the call; how it looks, when its chunk is sent. So a list of any
//! length costs the memory of a few chunks.

use super::Runtime;
use api::cri;
use engine::Host;
use prost::Message;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

/// A stream of messages.
pub(super) type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Most items of one message.
const MOST_ITEMS: usize = 1000;
/// Most bytes of one message that has more than one item: clients take 16 MiB (the kubelet), or less.
const MOST_BYTES: usize = 2 << 20;
/// How many pods or containers are read at once for one message: reading takes a while, and whoever
/// has left is noticed between two of them.
const BATCH: usize = 64;

/// Cuts items into chunks, by number and by size.
struct Chunks<I: Iterator> {
    items: I,
    /// It did not fit into the last chunk.
    over: Option<I::Item>,
}

impl<T: Message, I: Iterator<Item = T>> Iterator for Chunks<I> {
    type Item = Vec<T>;

    fn next(&mut self) -> Option<Vec<T>> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while let Some(item) = self.over.take().or_else(|| self.items.next()) {
            // The key and the length of the item come to it: some bytes.
            let size = item.encoded_len() + 16;
            if !chunk.is_empty() && (bytes + size > MOST_BYTES || chunk.len() == MOST_ITEMS) {
                self.over = Some(item);
                break;
            }
            bytes += size;
            chunk.push(item);
        }
        (!chunk.is_empty()).then_some(chunk)
    }
}

fn chunks<T: Message, I: IntoIterator<Item = T>>(items: I) -> Chunks<I::IntoIter> {
    Chunks { items: items.into_iter(), over: None }
}

/// Items that are at hand, each made when its chunk is sent.
fn stream<V, T, R>(
    views: Vec<V>,
    make: impl Fn(&V) -> T + Send + 'static,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Items<R>
where
    V: Send + 'static,
    T: Message + 'static,
{
    let items = views.into_iter().map(move |view| make(&view));
    Box::pin(tokio_stream::iter(chunks(items).map(move |chunk| Ok(wrap(chunk)))))
}

/// Items that have to be read, a batch at a time, as fast as the caller takes them.
fn read_stream<V, T, R, F>(
    views: Vec<V>,
    read: impl Fn(Vec<V>) -> F + Send + 'static,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Items<R>
where
    V: Send + 'static,
    T: Message + 'static,
    R: Send + 'static,
    F: Future<Output = Vec<T>> + Send,
{
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut views = views.into_iter();
        loop {
            let batch: Vec<V> = views.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return;
            }
            for chunk in chunks(read(batch).await) {
                if send.send(Ok(wrap(chunk))).await.is_err() {
                    // The caller has left.
                    return;
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(receive))
}

impl<H: Host> Runtime<H> {
    pub(super) fn stream_pods(
        &self,
        request: cri::StreamPodSandboxesRequest,
    ) -> Items<cri::StreamPodSandboxesResponse> {
        let pods = self.listed_pods(request.filter);
        stream(
            pods,
            |pod| crate::render::pod_row(pod),
            |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes },
        )
    }

    pub(super) fn stream_containers(
        &self,
        request: cri::StreamContainersRequest,
    ) -> Items<cri::StreamContainersResponse> {
        let containers = self.listed_containers(request.filter);
        stream(
            containers,
            |container| crate::render::container_row(container),
            |containers| cri::StreamContainersResponse { containers },
        )
    }

    pub(super) fn stream_container_stats(
        &self,
        request: cri::StreamContainerStatsRequest,
    ) -> Items<cri::StreamContainerStatsResponse> {
        let looks = self.looks();
        read_stream(
            self.containers_with_stats(request.filter),
            move |batch| looks.clone().containers(batch),
            |container_stats| cri::StreamContainerStatsResponse { container_stats },
        )
    }

    pub(super) fn stream_pod_stats(
        &self,
        request: cri::StreamPodSandboxStatsRequest,
    ) -> Items<cri::StreamPodSandboxStatsResponse> {
        let looks = self.looks();
        read_stream(
            self.pods_with_stats(request.filter),
            move |batch| looks.clone().pods(batch),
            |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats },
        )
    }

    pub(super) fn stream_pod_metrics(&self) -> Items<cri::StreamPodSandboxMetricsResponse> {
        let looks = self.looks();
        read_stream(
            self.pods_with_stats(None),
            move |batch| looks.clone().metrics(batch),
            |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    fn row(id: usize, bytes: usize) -> cri::Container {
        cri::Container { id: id.to_string(), image_ref: "x".repeat(bytes), ..Default::default() }
    }

    /// How many items each chunk has; that each item comes once and in order is checked on the way.
    fn sizes(items: Vec<cri::Container>) -> Vec<usize> {
        let ids: Vec<String> = items.iter().map(|item| item.id.clone()).collect();
        let cut: Vec<Vec<cri::Container>> = chunks(items).collect();
        assert_eq!(cut.iter().flatten().map(|item| item.id.clone()).collect::<Vec<_>>(), ids);
        cut.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_chunk_is_bounded_by_its_number_of_items() {
        assert_eq!(sizes(Vec::new()), [] as [usize; 0]);
        assert_eq!(sizes((0..2500).map(|id| row(id, 0)).collect()), [1000, 1000, 500]);
        assert_eq!(sizes((0..1000).map(|id| row(id, 0)).collect()), [1000]);
    }

    #[test]
    fn a_chunk_is_bounded_by_its_bytes_and_a_huge_item_goes_alone() {
        let large = MOST_BYTES / 3;
        assert_eq!(sizes((0..5).map(|id| row(id, large)).collect()), [2, 2, 1]);
        assert_eq!(sizes(vec![row(0, 1), row(1, 3 * MOST_BYTES), row(2, 1)]), [1, 1, 1]);
        let response = |containers| cri::StreamContainersResponse { containers };
        for chunk in chunks((0..4000).map(|id| row(id, 4000))) {
            assert!(response(chunk).encoded_len() <= MOST_BYTES);
        }
    }

    #[tokio::test]
    async fn items_are_read_in_batches_and_an_empty_list_ends() {
        let read = |batch: Vec<usize>| async move {
            assert!(batch.len() <= BATCH);
            batch.into_iter().filter(|id| id % 2 == 0).map(|id| row(id, 0)).collect()
        };
        let wrap = |containers| cri::StreamContainersResponse { containers };
        let all: Vec<_> = read_stream((0..200).collect(), read, wrap).collect().await;
        let ids: Vec<String> = all
            .into_iter()
            .flat_map(|message| message.expect("a message").containers)
            .map(|container| container.id)
            .collect();
        assert_eq!(ids, (0..200).step_by(2).map(|id: usize| id.to_string()).collect::<Vec<_>>());
        assert!(read_stream(Vec::new(), read, wrap).next().await.is_none());
        assert!(stream(Vec::<usize>::new(), |id| row(*id, 0), wrap).next().await.is_none());
    }

    #[tokio::test]
    async fn nothing_more_is_read_for_a_caller_that_has_left() {
        let (told, mut heard) = mpsc::unbounded_channel();
        let read = move |batch: Vec<usize>| {
            let _ = told.send(batch.len());
            async move { batch.into_iter().map(|id| row(id, 0)).collect::<Vec<_>>() }
        };
        let mut items = read_stream((0..BATCH * 100).collect(), read, |containers| {
            cri::StreamContainersResponse { containers }
        });
        items.next().await.expect("a message").expect("a chunk");
        drop(items);
        let mut batches = 0;
        // The reader's end drops the sender.
        while heard.recv().await.is_some() {
            batches += 1;
        }
        assert!(batches <= 4, "{batches}");
    }
}
