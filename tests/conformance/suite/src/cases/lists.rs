//! Lists and their filters, and the same as streams in chunks.

use crate::{
    case::{Case, case, holds, is},
    story::{Container, Pod, Test, map},
};
use anyhow::Result;
use api::cri::{self, ContainerState, PodSandboxState};
use tonic::Status;

const FILTER: &str = "CRI PodSandboxFilter, ContainerFilter: ANDed";
const STREAM: &str = "KEP-5825: the same items, each once, then the end";

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for stream in [false, true] {
        all.extend(pods(stream));
        all.extend(of_containers(stream));
    }
    all.extend(image_lists());
    all
}

fn source(stream: bool) -> &'static str {
    if stream { STREAM } else { FILTER }
}

fn way(stream: bool) -> &'static str {
    if stream { "stream" } else { "list" }
}

/// ListPodSandbox or StreamPodSandboxes.
async fn sandboxes(
    t: &Test,
    stream: bool,
    filter: cri::PodSandboxFilter,
) -> Result<Vec<cri::PodSandbox>, Status> {
    let filter = Some(filter);
    if !stream {
        return Ok(t
            .runtime()
            .list_pod_sandbox(cri::ListPodSandboxRequest { filter })
            .await?
            .into_inner()
            .items);
    }
    let mut answers =
        t.runtime().stream_pod_sandboxes(cri::StreamPodSandboxesRequest { filter }).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(answer.pod_sandboxes);
    }
    Ok(all)
}

/// ListContainers.
///
/// # Errors
/// The runtime's.
pub async fn containers(t: &Test, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, Status> {
    either(t, false, filter).await
}

async fn either(t: &Test, stream: bool, filter: cri::ContainerFilter) -> Result<Vec<cri::Container>, Status> {
    let filter = Some(filter);
    if !stream {
        return Ok(t
            .runtime()
            .list_containers(cri::ListContainersRequest { filter })
            .await?
            .into_inner()
            .containers);
    }
    let mut answers =
        t.runtime().stream_containers(cri::StreamContainersRequest { filter }).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(answer.containers);
    }
    Ok(all)
}

/// Three pods with labels: the first two of this test, the third stopped.
async fn three(t: &Test) -> Result<(Vec<Pod>, String)> {
    let mark = t.unique("mark");
    let mut pods = Vec::new();
    for (n, tier) in ["front", "back", "back"].into_iter().enumerate() {
        let labels = map(&[("mark", &mark), ("tier", tier), ("n", &n.to_string())]);
        pods.push(t.pod_with(|p| p.labels = labels).await?);
    }
    pods[2].stop().await?;
    Ok((pods, mark))
}

fn expect<'a>(what: &str, items: impl Iterator<Item = &'a String>, expected: &[&String]) -> Result<()> {
    let mut got: Vec<_> = items.collect();
    let mut expected = expected.to_vec();
    got.sort();
    expected.sort();
    is(what, got, expected)
}

fn pods(stream: bool) -> Vec<Case> {
    let request = if stream { "StreamPodSandboxesRequest" } else { "ListPodSandboxRequest" };
    let field = move |name: &str| format!("{request}.filter.{name}");
    let way = way(stream);
    vec![
        case(
            format!("lists: pods by label ({way})"),
            source(stream),
            &field("label_selector"),
            move |t: Test| async move {
                let (pods, mark) = three(&t).await?;
                let by = |labels: &[(&str, &str)]| cri::PodSandboxFilter {
                    label_selector: map(labels),
                    ..Default::default()
                };
                let all = sandboxes(&t, stream, by(&[("mark", &mark)])).await?;
                expect("one label", all.iter().map(|p| &p.id), &[&pods[0].id, &pods[1].id, &pods[2].id])?;
                let back = sandboxes(&t, stream, by(&[("mark", &mark), ("tier", "back")])).await?;
                expect("two labels", back.iter().map(|p| &p.id), &[&pods[1].id, &pods[2].id])?;
                let none = sandboxes(&t, stream, by(&[("mark", &mark), ("tier", "bac")])).await?;
                expect("part of a value", none.iter().map(|p| &p.id), &[])
            },
        ),
        case(
            format!("lists: pods by state ({way})"),
            source(stream),
            &format!("{} {}", field("state.state"), field("label_selector")),
            move |t: Test| async move {
                let (pods, mark) = three(&t).await?;
                let by = |state: PodSandboxState| cri::PodSandboxFilter {
                    state: Some(cri::PodSandboxStateValue { state: state.into() }),
                    label_selector: map(&[("mark", &mark)]),
                    ..Default::default()
                };
                let ready = sandboxes(&t, stream, by(PodSandboxState::SandboxReady)).await?;
                expect("ready", ready.iter().map(|p| &p.id), &[&pods[0].id, &pods[1].id])?;
                let stopped = sandboxes(&t, stream, by(PodSandboxState::SandboxNotready)).await?;
                expect("not ready", stopped.iter().map(|p| &p.id), &[&pods[2].id])?;
                holds(
                    "state of the item",
                    stopped.iter().all(|p| p.state() == PodSandboxState::SandboxNotready),
                )
            },
        ),
        case(
            format!("lists: pods by id, also a short one ({way})"),
            source(stream),
            &field("id"),
            move |t: Test| async move {
                let (pods, _) = three(&t).await?;
                let by = |id: &str| cri::PodSandboxFilter { id: id.to_owned(), ..Default::default() };
                let whole = sandboxes(&t, stream, by(&pods[1].id)).await?;
                expect("the id", whole.iter().map(|p| &p.id), &[&pods[1].id])?;
                let short = sandboxes(&t, stream, by(&pods[1].id[..13])).await?;
                expect("thirteen digits", short.iter().map(|p| &p.id), &[&pods[1].id])?;
                let none = sandboxes(&t, stream, by(&"0123456789abcdef".repeat(4))).await?;
                expect("an unknown id", none.iter().map(|p| &p.id), &[])
            },
        ),
        case(
            format!("lists: id, state and label together ({way})"),
            source(stream),
            &format!("{} {} {}", field("id"), field("state.state"), field("label_selector")),
            move |t: Test| async move {
                let (pods, mark) = three(&t).await?;
                let by = |id: &str, state: PodSandboxState| cri::PodSandboxFilter {
                    id: id.to_owned(),
                    state: Some(cri::PodSandboxStateValue { state: state.into() }),
                    label_selector: map(&[("mark", &mark)]),
                };
                let found = sandboxes(&t, stream, by(&pods[2].id, PodSandboxState::SandboxNotready)).await?;
                expect("all three", found.iter().map(|p| &p.id), &[&pods[2].id])?;
                let none = sandboxes(&t, stream, by(&pods[2].id, PodSandboxState::SandboxReady)).await?;
                expect("a wrong state", none.iter().map(|p| &p.id), &[])
            },
        ),
        case(
            format!("lists: pods without a filter ({way})"),
            source(stream),
            if stream { "PodSandbox.id PodSandbox.metadata.name" } else { "PodSandbox.id" },
            move |t: Test| async move {
                let (pods, _) = three(&t).await?;
                let all = if stream {
                    sandboxes(&t, true, cri::PodSandboxFilter::default()).await?
                } else {
                    t.runtime()
                        .list_pod_sandbox(cri::ListPodSandboxRequest { filter: None })
                        .await?
                        .into_inner()
                        .items
                };
                for pod in &pods {
                    is("entries of a pod", all.iter().filter(|p| p.id == pod.id).count(), 1)?;
                }
                let found = all.iter().find(|p| p.id == pods[0].id).and_then(|p| p.metadata.clone());
                is("its metadata", found, pods[0].config.metadata.clone())
            },
        ),
    ]
}

/// A pod with a container in each state, and another pod with one.
async fn four(t: &Test) -> Result<(Vec<Container>, String)> {
    let mark = t.unique("mark");
    let pod = t.pod().await?;
    let label = |n: &str| map(&[("mark", &mark), ("n", n)]);
    let created = pod.create(|c| c.labels = label("0")).await?;
    let running = pod.run(|c| c.labels = label("1")).await?;
    let exited = pod.run(|c| c.labels = label("2")).await?;
    exited.stop(0).await?;
    let other = t.container(|c| c.labels = label("3")).await?;
    Ok((vec![created, running, exited, other], mark))
}

fn of_containers(stream: bool) -> Vec<Case> {
    let request = if stream { "StreamContainersRequest" } else { "ListContainersRequest" };
    let field = move |name: &str| format!("{request}.filter.{name}");
    let way = way(stream);
    vec![
        case(
            format!("lists: what a container's entry says ({way})"),
            "CRI Container",
            "Container.id Container.pod_sandbox_id Container.metadata.name Container.metadata.attempt Container.state Container.created_at Container.labels Container.annotations",
            move |t: Test| async move {
                let c = t
                    .container(|c| {
                        c.metadata.get_or_insert_default().attempt = 2;
                        c.labels = map(&[("a", "b")]);
                        c.annotations = map(&[("c", "d e")]);
                    })
                    .await?;
                let status = c.status().await?;
                let items =
                    either(&t, stream, cri::ContainerFilter { id: c.id.clone(), ..Default::default() })
                        .await?;
                is("entries", items.len(), 1)?;
                let item = &items[0];
                is("id", &item.id, &c.id)?;
                is("pod_sandbox_id", &item.pod_sandbox_id, &c.pod.id)?;
                is("metadata", &item.metadata, &status.metadata)?;
                is("attempt", item.metadata.clone().unwrap_or_default().attempt, 2)?;
                is("state", item.state(), ContainerState::ContainerRunning)?;
                is("created_at", item.created_at, status.created_at)?;
                is("labels", &item.labels, &map(&[("a", "b")]))?;
                is("annotations", &item.annotations, &map(&[("c", "d e")]))
            },
        ),
        case(
            format!("lists: containers by state ({way})"),
            source(stream),
            &format!("{} {}", field("state.state"), field("label_selector")),
            move |t: Test| async move {
                let (all, mark) = four(&t).await?;
                for (state, expected) in [
                    (ContainerState::ContainerCreated, vec![&all[0].id]),
                    (ContainerState::ContainerRunning, vec![&all[1].id, &all[3].id]),
                    (ContainerState::ContainerExited, vec![&all[2].id]),
                    (ContainerState::ContainerUnknown, vec![]),
                ] {
                    let filter = cri::ContainerFilter {
                        state: Some(cri::ContainerStateValue { state: state.into() }),
                        label_selector: map(&[("mark", &mark)]),
                        ..Default::default()
                    };
                    let items = either(&t, stream, filter).await?;
                    expect(state.as_str_name(), items.iter().map(|c| &c.id), &expected)?;
                    holds("their state", items.iter().all(|c| c.state() == state))?;
                }
                Ok(())
            },
        ),
        case(
            format!("lists: containers by pod ({way})"),
            source(stream),
            &field("pod_sandbox_id"),
            move |t: Test| async move {
                let (all, _) = four(&t).await?;
                let by =
                    |id: &str| cri::ContainerFilter { pod_sandbox_id: id.to_owned(), ..Default::default() };
                let items = either(&t, stream, by(&all[0].pod.id)).await?;
                expect(
                    "the first pod's",
                    items.iter().map(|c| &c.id),
                    &[&all[0].id, &all[1].id, &all[2].id],
                )?;
                let items = either(&t, stream, by(&all[3].pod.id[..13])).await?;
                expect("the other's, by a short id", items.iter().map(|c| &c.id), &[&all[3].id])
            },
        ),
        case(
            format!("lists: containers by id, also a short one ({way})"),
            source(stream),
            &field("id"),
            move |t: Test| async move {
                let (all, _) = four(&t).await?;
                let by = |id: &str| cri::ContainerFilter { id: id.to_owned(), ..Default::default() };
                let items = either(&t, stream, by(&all[0].id)).await?;
                expect("the id", items.iter().map(|c| &c.id), &[&all[0].id])?;
                let items = either(&t, stream, by(&all[2].id[..13])).await?;
                expect("thirteen digits", items.iter().map(|c| &c.id), &[&all[2].id])?;
                let items = either(&t, stream, by(&"0123456789abcdef".repeat(4))).await?;
                expect("an unknown id", items.iter().map(|c| &c.id), &[])
            },
        ),
        case(
            format!("lists: containers by all at once ({way})"),
            source(stream),
            &format!(
                "{} {} {} {}",
                field("id"),
                field("state.state"),
                field("pod_sandbox_id"),
                field("label_selector")
            ),
            move |t: Test| async move {
                let (all, mark) = four(&t).await?;
                let by = |n: &str| cri::ContainerFilter {
                    id: all[1].id.clone(),
                    state: Some(cri::ContainerStateValue { state: ContainerState::ContainerRunning.into() }),
                    pod_sandbox_id: all[1].pod.id.clone(),
                    label_selector: map(&[("mark", &mark), ("n", n)]),
                };
                let items = either(&t, stream, by("1")).await?;
                expect("all four", items.iter().map(|c| &c.id), &[&all[1].id])?;
                let items = either(&t, stream, by("2")).await?;
                expect("a wrong label", items.iter().map(|c| &c.id), &[])
            },
        ),
    ]
}

fn image_lists() -> Vec<Case> {
    let list = |t: Test, stream: bool, filter: Option<cri::ImageFilter>| async move {
        if !stream {
            return Ok::<_, Status>(
                t.images().list_images(cri::ListImagesRequest { filter }).await?.into_inner().images,
            );
        }
        let mut answers = t.images().stream_images(cri::StreamImagesRequest { filter }).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.extend(answer.images);
        }
        Ok(all)
    };
    let mut all = Vec::new();
    for stream in [false, true] {
        let request = if stream { "StreamImagesRequest" } else { "ListImagesRequest" };
        let fields =
            format!("{request}.filter.image.image Image.id Image.repo_tags Image.repo_digests Image.size");
        all.push(case(
            format!("lists: images, and one by its name ({})", way(stream)),
            source(stream),
            &fields,
            move |t: Test| async move {
                let name = t.spec("busybox:1").image;
                let status = t.image_status(&name).await?;
                let everything = list(t.clone(), stream, None).await?;
                let mine: Vec<_> =
                    everything.into_iter().filter(|image| image.id == t.world.busybox).collect();
                is("entries", mine.len(), 1)?;
                is("the entry is the status", mine.first(), status.as_ref())?;
                is("repo_tags", &mine[0].repo_tags, &vec![name.clone()])?;
                let digest =
                    format!("{}@{}", t.spec("busybox").image, t.world.registry.digest("busybox", "1")?);
                is("repo_digests", &mine[0].repo_digests, &vec![digest])?;
                crate::case::between("size", mine[0].size, 100_000, 50_000_000)?;
                for reference in [name, t.world.busybox.clone()] {
                    let image = cri::ImageSpec { image: reference, ..Default::default() };
                    let one = list(t.clone(), stream, Some(cri::ImageFilter { image: Some(image) })).await?;
                    is("by name", one.len(), 1)?;
                    is("its id", &one[0].id, &t.world.busybox)?;
                }
                let image = cri::ImageSpec { image: t.spec("nowhere:1").image, ..Default::default() };
                is(
                    "an absent one",
                    list(t.clone(), stream, Some(cri::ImageFilter { image: Some(image) })).await?.len(),
                    0,
                )
            },
        ));
        let further = ["annotations", "user_specified_image", "runtime_handler", "image_ref"]
            .map(|field| format!("{request}.filter.image.{field}"))
            .join(" ");
        all.push(case(
            format!("lists: an image with all names of its filter ({})", way(stream)),
            source(stream),
            &further,
            move |t: Test| async move {
                let image = cri::ImageSpec {
                    image: t.world.busybox.clone(),
                    annotations: map(&[("note", "x")]),
                    user_specified_image: "busybox".to_owned(),
                    runtime_handler: t
                        .world
                        .handlers
                        .iter()
                        .find(|name| !name.is_empty())
                        .cloned()
                        .unwrap_or_default(),
                    image_ref: t.world.registry.digest("busybox", "1")?,
                };
                let found = list(t.clone(), stream, Some(cri::ImageFilter { image: Some(image) })).await?;
                is("by id and more", found.len(), 1)
            },
        ));
    }
    all
}
