//! peapod's own service on the same socket: what the CRI has no call for.

use crate::{image::ImageApi, parse::Bad, status};
use api::admin::{self, admin_server::Admin, load_image_response::Step};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use types::ImageRef;

/// Bytes of an archive between the caller and the store.
const PIPE: usize = 256 << 10;
/// How often a pull is looked at when it says nothing by itself.
const LOOK: Duration = Duration::from_millis(100);

/// The service.
#[derive(Clone, Debug)]
pub struct AdminApi {
    images: ImageApi,
    config: Arc<str>,
}

impl AdminApi {
    /// `config`: what is in force, as TOML.
    #[must_use]
    pub fn new(images: ImageApi, config: String) -> AdminApi {
        AdminApi { images, config: config.into() }
    }
}

type Steps<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Admin for AdminApi {
    type LoadImageStream = Steps<admin::LoadImageResponse>;

    async fn load_image(
        &self,
        request: Request<Streaming<admin::LoadImageRequest>>,
    ) -> Result<Response<Self::LoadImageStream>, Status> {
        let mut chunks = request.into_inner();
        let (told, steps) = mpsc::channel(16);
        let (mut writer, reader) = tokio::io::duplex(PIPE);
        let progress = told.clone();
        tokio::spawn(async move {
            let mut read = 0_u64;
            let mut last = 0_u64;
            loop {
                match chunks.message().await {
                    Ok(Some(message)) => {
                        // The store ends early when it refuses: its error is the answer.
                        if writer.write_all(&message.chunk).await.is_err() {
                            return;
                        }
                        read += message.chunk.len() as u64;
                        if read - last >= 8 << 20 {
                            last = read;
                            let step = Step::Progress(admin::LoadProgress {
                                message: "reading the archive".to_owned(),
                                bytes_read: read,
                            });
                            if progress.send(Ok(admin::LoadImageResponse { step: Some(step) })).await.is_err()
                            {
                                return;
                            }
                        }
                    }
                    Ok(None) => break,
                    // The caller has gone: the archive ends in its middle, and is refused.
                    Err(_) => return,
                }
            }
            let _ = writer.shutdown().await;
        });
        let images = Arc::clone(self.images.images());
        tokio::spawn(async move {
            let answer = match images.load(reader).await {
                Ok(images) => {
                    let images = images
                        .into_iter()
                        .map(|image| admin::LoadedImage { id: image.id.to_string(), references: image.names })
                        .collect();
                    Ok(admin::LoadImageResponse { step: Some(Step::Result(admin::LoadResult { images })) })
                }
                Err(error) => Err(status::of_image(&error)),
            };
            // Nobody to tell: the images are loaded all the same.
            let _ = told.send(answer).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(steps))))
    }

    async fn config_show(
        &self,
        _request: Request<admin::ConfigShowRequest>,
    ) -> Result<Response<admin::ConfigShowResponse>, Status> {
        Ok(Response::new(admin::ConfigShowResponse { toml: self.config.to_string() }))
    }

    type PullProgressStream = Steps<admin::PullProgressResponse>;

    /// Tells how far a pull is, until it ends. One that has not begun is waited for a moment.
    async fn pull_progress(
        &self,
        request: Request<admin::PullProgressRequest>,
    ) -> Result<Response<Self::PullProgressStream>, Status> {
        let image = ImageRef::parse(&request.into_inner().image)
            .map_err(|error| status::of_request(&Bad::field("image", error.to_string())))?;
        let images = self.images.clone();
        let (told, steps) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut seen = None;
            for _ in 0..50 {
                seen = images.progress(&image);
                if seen.is_some() || told.is_closed() {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            let Some(mut seen) = seen else { return };
            loop {
                let now = *seen.borrow_and_update();
                let step = admin::PullProgressResponse {
                    bytes_done: now.bytes_done,
                    bytes_total: now.bytes,
                    layers_done: u32::try_from(now.layers_done).unwrap_or(u32::MAX),
                    layers_total: u32::try_from(now.layers).unwrap_or(u32::MAX),
                    phase: if now.layers == 0 { "manifest" } else { "layers" }.to_owned(),
                };
                if told.send(Ok(step)).await.is_err() {
                    return;
                }
                // The sender goes with the pull.
                if seen.changed().await.is_err() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(steps))))
    }
}
