//! Lists in chunks: the same items as in the lists of the same name.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::large_futures, reason = "a story is awaited once")]

use api::cri;
use pods::{Client, Daemon, pod, shell, story};
use tonic::{Response, Status, Streaming};

/// The items of all messages until the end, by message; none of them is empty.
async fn all<M, T>(stream: Result<Response<Streaming<M>>, Status>, items: fn(M) -> Vec<T>) -> Vec<Vec<T>> {
    let mut stream = stream.expect("a stream").into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("no error") {
        messages.push(items(message));
    }
    assert!(messages.iter().all(|items| !items.is_empty()), "a message without items");
    messages
}

async fn pods_of(client: &Client, filter: Option<cri::PodSandboxFilter>) -> Vec<Vec<cri::PodSandbox>> {
    let request = cri::StreamPodSandboxesRequest { filter };
    all(client.runtime().stream_pod_sandboxes(request).await, |message| message.pod_sandboxes).await
}

async fn containers_of(client: &Client, filter: Option<cri::ContainerFilter>) -> Vec<Vec<cri::Container>> {
    let request = cri::StreamContainersRequest { filter };
    all(client.runtime().stream_containers(request).await, |message| message.containers).await
}

/// Ids in the three lists of figures: containers, pods, pods with metrics.
async fn figures(client: &Client) -> [Vec<String>; 3] {
    let mut runtime = client.runtime();
    let containers = runtime.stream_container_stats(cri::StreamContainerStatsRequest::default()).await;
    let containers = all(containers, |message| message.container_stats).await;
    let pods = runtime.stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest::default()).await;
    let pods = all(pods, |message| message.pod_sandbox_stats).await;
    let metrics = runtime.stream_pod_sandbox_metrics(cri::StreamPodSandboxMetricsRequest::default()).await;
    let metrics = all(metrics, |message| message.pod_sandbox_metrics).await;
    let mut ids = [
        containers.concat().into_iter().map(|row| row.attributes.expect("attributes").id).collect::<Vec<_>>(),
        pods.concat().into_iter().map(|row| row.attributes.expect("attributes").id).collect(),
        metrics.concat().into_iter().map(|row| row.pod_sandbox_id).collect(),
    ];
    ids.iter_mut().for_each(|ids| ids.sort());
    ids
}

async fn images(client: &Client) -> Vec<Vec<cri::Image>> {
    let asked = client.images().stream_images(cri::StreamImagesRequest::default()).await;
    all(asked, |message| message.images).await
}

#[test]
fn each_item_comes_once_and_an_empty_list_ends() {
    story(async {
        let daemon = Daemon::start("streams").await;
        let client = daemon.client();
        assert_eq!((pods_of(&client, None).await.len(), containers_of(&client, None).await.len()), (0, 0));
        assert_eq!(figures(&client).await, <[Vec<String>; 3]>::default());
        assert_eq!(images(&client).await.len(), 0);

        client.load(pods::busybox_archive()).await.expect("loaded");
        assert_eq!(images(&client).await.concat().len(), 1);
        let (mut pods, mut running) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let config = pod(name, &daemon.cgroup(), &daemon.logs(name));
            let id = client.run_pod(&config).await.expect("a pod");
            running.push(client.run(&id, &config, &shell("runs", "sleep 1000")).await.expect("runs"));
            client.create(&id, &config, &shell("waits", "sleep 1000")).await.expect("created");
            pods.push(id);
        }
        pods.sort();
        running.sort();
        assert_eq!(pods_of(&client, None).await.concat(), client.pods().await.expect("a list"));
        assert_eq!(containers_of(&client, None).await.concat(), client.containers().await.expect("a list"));
        assert_eq!(figures(&client).await, [running, pods.clone(), pods.clone()]);
        // Filters are those of the lists.
        let of_one = cri::ContainerFilter { pod_sandbox_id: pods[0].clone(), ..Default::default() };
        assert_eq!(containers_of(&client, Some(of_one)).await.concat().len(), 2);
        let nobody = cri::PodSandboxFilter { id: "nobody".to_owned(), ..Default::default() };
        assert_eq!(pods_of(&client, Some(nobody)).await.len(), 0);
        daemon.end().await;
    });
}

#[test]
fn messages_stay_small_however_large_the_list_is() {
    story(async {
        let daemon = Daemon::start("large").await;
        let client = daemon.client();
        for number in 0..5 {
            let name = format!("p{number}");
            let mut config = pod(&name, &daemon.cgroup(), &daemon.logs(&name));
            config.annotations = [("large".to_owned(), "x".repeat(700 << 10))].into();
            let linux = config.linux.as_mut().expect("set");
            let options =
                linux.security_context.as_mut().expect("set").namespace_options.as_mut().expect("set");
            options.network = cri::NamespaceMode::Node.into();
            config.hostname = String::new();
            client.run_pod(&config).await.expect("a pod");
        }
        let messages = pods_of(&client, None).await;
        assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(messages.concat(), client.pods().await.expect("a list"));
        let stats =
            client.runtime().stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest::default()).await;
        let stats = all(stats, |message| message.pod_sandbox_stats).await;
        assert_eq!(stats.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        daemon.end().await;
    });
}
