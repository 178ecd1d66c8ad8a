//! ImageService.

use crate::{
    Caller,
    parse::{Bad, Handlers},
    status,
};
use api::cri::{self, image_service_server::ImageService};
use image::{Image, ImageUser, Images, Progress, PullAuth};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};
use types::{Clock as _, ImageRef, SystemClock};

/// Items of one message of a stream.
const CHUNK: usize = 1000;

/// The service. Clones share the images and what is known of pulls under way.
#[derive(Clone, Debug)]
pub struct ImageApi {
    images: Arc<Images>,
    /// How far the pulls are that callers wait for, by normalised reference.
    pulls: Arc<Mutex<HashMap<String, watch::Receiver<Progress>>>>,
    handlers: Handlers,
}

impl ImageApi {
    /// Serves these images, which are the same for all handlers.
    #[must_use]
    pub fn new(images: Arc<Images>, handlers: Handlers) -> ImageApi {
        ImageApi { images, pulls: Arc::default(), handlers }
    }

    /// How far the pull of an image is, if one is under way.
    pub(crate) fn progress(&self, image: &ImageRef) -> Option<watch::Receiver<Progress>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).get(&image.to_string()).cloned()
    }

    pub(crate) fn images(&self) -> &Arc<Images> {
        &self.images
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Items<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

/// The reference or id in an ImageSpec.
fn named(spec: Option<cri::ImageSpec>, handlers: &Handlers) -> Result<String, Status> {
    let spec = spec.unwrap_or_default();
    if spec.image.is_empty() {
        return Err(status::of_request(&Bad::field("image.image", "is empty")));
    }
    if spec.image.len() > 4096 {
        return Err(status::of_request(&Bad::field("image.image", "is longer than 4096 bytes")));
    }
    handlers.check("image.runtime_handler", &spec.runtime_handler).map_err(|bad| status::of_request(&bad))?;
    Ok(spec.image)
}

fn shown(image: &Image) -> cri::Image {
    let (uid, username) = match &image.user {
        ImageUser::Unsaid => (None, String::new()),
        ImageUser::Uid(uid) => (Some(cri::Int64Value { value: i64::from(*uid) }), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: None,
        pinned: false,
    }
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    async fn list_images(&self, request: Request<cri::ListImagesRequest>) -> Answer<cri::ListImagesResponse> {
        let filter = request.into_inner().filter.and_then(|f| f.image).map(|spec| spec.image);
        let images = self.images.list(filter.as_deref()).iter().map(shown).collect();
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Items<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        let filter = request.into_inner().filter.and_then(|f| f.image).map(|spec| spec.image);
        let images = self.images.list(filter.as_deref());
        let chunks: Vec<_> = images
            .chunks(CHUNK)
            .map(|chunk| Ok(cri::StreamImagesResponse { images: chunk.iter().map(shown).collect() }))
            .collect();
        Ok(Response::new(tokio_stream::iter(chunks)))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let request = request.into_inner();
        let name = named(request.image, &self.handlers)?;
        // An absent image is an answer without one, not an error.
        let found = self.images.status(&name).map_err(|error| status::of_image(&error))?;
        let info = match &found {
            Some(image) if request.verbose => {
                let config = self.images.config(&image.id).map_err(|error| status::of_image(&error))?;
                let config =
                    config.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
                let info = serde_json::json!({ "imageSpec": config });
                BTreeMap::from([("info".to_owned(), info.to_string())])
            }
            Some(_) | None => BTreeMap::new(),
        };
        Ok(Response::new(cri::ImageStatusResponse { image: found.as_ref().map(shown), info }))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Answer<cri::PullImageResponse> {
        let caller = request.extensions().get::<Caller>().cloned();
        let request = request.into_inner();
        let name = named(request.image, &self.handlers)?;
        let image = ImageRef::parse(&name)
            .map_err(|error| status::of_request(&Bad::field("image.image", error.to_string())))?;
        let auth = request.auth.unwrap_or_default();
        let credentials = PullAuth {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            server_address: auth.server_address,
            identity_token: auth.identity_token,
            registry_token: auth.registry_token,
        }
        .checked()
        .map_err(|error| status::of_request(&Bad::field(format!("auth.{}", error.field), error.why)))?;
        let pulling = self.images.pull(&image, credentials);
        let key = image.to_string();
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), pulling.progress());
        let done = match caller {
            // Who leaves gives up his share; the pull ends when nobody is left who waits for it.
            Some(mut caller) => tokio::select! {
                done = pulling.done() => Some(done),
                () = caller.gone() => None,
            },
            None => Some(pulling.done().await),
        };
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        match done {
            Some(done) => {
                let id = done.map_err(|error| status::of_image(&error))?;
                Ok(Response::new(cri::PullImageResponse { image_ref: id.to_string() }))
            }
            None => Err(status::caller_left("PullImage")),
        }
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        let name = named(request.into_inner().image, &self.handlers)?;
        self.images.remove(&name).await.map_err(|error| status::of_image(&error))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        let info = self.images.fs_info();
        let usage = cri::FilesystemUsage {
            timestamp: SystemClock.now().0,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: info.path.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: info.used_bytes }),
            inodes_used: Some(cri::UInt64Value { value: info.inodes_used }),
        };
        // Images and writable layers lie on one file system: the kubelet then looks at the first list.
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}
