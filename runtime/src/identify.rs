//! Which image a container was made from, by containerd's own record.
//!
//! Four reads over containerd's gRPC socket: the container, its image, the image's documents, and the snapshot that
//! its root filesystem stands on. A name may have been pushed again since the container was made, so the image that
//! the name means now only counts when the root filesystem stands on its layers.
//!
//! Docker needs more: with its own image store containerd knows no image at all, and with containerd's it tells
//! neither snapshotter nor snapshot. Both follow from the path of the root filesystem ([`crate::docker`]).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{Container, GetContainerRequest, GetImageRequest, ReadContentRequest};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use thaw_snapshot::{Digest, ImageFacts};

use crate::docker::{LABEL, Layers, Place};

mod cri;
mod docker;

pub(crate) use cri::CONTAINER_TYPE;
pub use cri::Kubernetes;

/// The largest image document that is read; containerd itself takes 8 MiB at most.
const DOCUMENT_LIMIT: usize = 8 << 20;

/// Why the image can't be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// containerd does not answer.
    #[error("connect to containerd at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the transport said.
        #[source]
        source: containerd_client::tonic::transport::Error,
    },
    /// The namespace can't be a header.
    #[error("name the namespace {namespace:?} to containerd")]
    Namespace {
        /// The namespace.
        namespace: String,
    },
    /// containerd refused a call.
    #[error("ask containerd for {what}")]
    Call {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        #[source]
        source: Box<Status>,
    },
    /// The container was made without an image that containerd or Docker knows: from a bare root filesystem.
    #[error("the container record names no image")]
    NoImage,
    /// A file in which Docker says which image it is can't be used.
    #[error("read Docker's records at {}", path.display())]
    Docker {
        /// The file, or the data root.
        path: PathBuf,
        /// What the kernel or the parser answered.
        #[source]
        source: std::io::Error,
    },
    /// The thread that reads Docker's records failed.
    #[error("read Docker's records on a thread")]
    Thread,
    /// The image was removed after the container was made.
    #[error("the image {name} is gone")]
    ImageGone {
        /// Its name.
        name: String,
    },
    /// A document of the image is larger than any real one.
    #[error("image document {digest} is larger than {DOCUMENT_LIMIT} bytes")]
    TooLarge {
        /// The document.
        digest: String,
    },
    /// A document of the image is not what its media type says.
    #[error("understand image document {digest}")]
    Document {
        /// The document.
        digest: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A document of the image does not have the digest it is stored under.
    #[error("image document {digest} has other bytes than its digest says")]
    WrongBytes {
        /// The document.
        digest: String,
    },
    /// A digest is not SHA-256.
    #[error("understand the digest {text:?}")]
    Digest {
        /// The digest.
        text: String,
    },
    /// The image has no manifest for this machine.
    #[error("the image has no manifest for {os}/{arch}")]
    NoPlatform {
        /// Operating system.
        os: Os,
        /// Architecture.
        arch: Arch,
    },
    /// The name means another image now than the one that the container was made from.
    #[error("the container was made from {found}, but {name} means {expected} now")]
    Moved {
        /// Name of the image.
        name: String,
        /// What the root filesystem stands on, or what CRI noted.
        found: String,
        /// The same of the image that the name means.
        expected: Digest,
    },
}

/// What containerd knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The image that it was made from.
    pub image: ImageFacts,
    /// What Kubernetes says of it; `None` for other clients.
    pub kubernetes: Option<Kubernetes>,
}

/// Who knows which image a container was made from.
#[async_trait]
pub trait Identify: fmt::Debug + Send + Sync {
    /// The image of the container `id` in the containerd namespace `namespace`, and what else is known of it.
    ///
    /// # Errors
    /// See [`IdentifyError`].
    async fn identify(&self, namespace: &str, id: &str) -> Result<Identified, IdentifyError>;
}

/// containerd itself.
#[derive(Debug, Clone)]
pub struct Containerd {
    /// Its gRPC socket.
    pub socket: PathBuf,
}

#[async_trait]
impl Identify for Containerd {
    async fn identify(&self, namespace: &str, id: &str) -> Result<Identified, IdentifyError> {
        let channel =
            containerd_client::connect(&self.socket)
                .await
                .map_err(|source| IdentifyError::Connect {
                    path: self.socket.clone(),
                    source,
                })?;
        let caller = Caller {
            channel,
            namespace: namespace.to_owned(),
        };
        let container = caller.container(id).await?;
        let docker = docker_place(&container);
        if container.image.is_empty() {
            let (place, id) = (docker.ok_or(IdentifyError::NoImage)?, id.to_owned());
            let read = tokio::task::spawn_blocking(move || docker::image_of(&place, &id));
            let image = read.await.map_err(|_panic| IdentifyError::Thread)??;
            return Ok(Identified {
                image,
                kubernetes: None,
            });
        }
        let (target, image) = caller.manifest_of(&container.image).await?;
        let config: ImageConfiguration = caller.document(&image.config).await?;
        let chain_id = chain_id(config.rootfs().diff_ids())?;
        caller.check_parent(&container, docker, chain_id).await?;
        let config = digest(image.config.digest().as_ref())?;
        let note = cri::note(&container);
        if let Some(found) = note.as_ref().and_then(cri::image)
            && found != config.to_string()
        {
            let (name, expected) = (container.image, config);
            return Err(IdentifyError::Moved {
                name,
                found,
                expected,
            });
        }
        let image = ImageFacts {
            name: container.image,
            target,
            manifest: image.digest,
            config,
            chain_id,
        };
        Ok(Identified {
            image,
            kubernetes: note.as_ref().map(cri::kubernetes),
        })
    }
}

struct Manifest {
    digest: Digest,
    config: Descriptor,
}

struct Caller {
    channel: Channel,
    namespace: String,
}

impl Caller {
    fn request<T>(&self, message: T) -> Result<Request<T>, IdentifyError> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(5));
        let Ok(namespace) = self.namespace.parse() else {
            return Err(IdentifyError::Namespace {
                namespace: self.namespace.clone(),
            });
        };
        request.metadata_mut().insert("containerd-namespace", namespace);
        Ok(request)
    }

    async fn container(&self, id: &str) -> Result<Container, IdentifyError> {
        let request = self.request(GetContainerRequest { id: id.to_owned() })?;
        let answer = ContainersClient::new(self.channel.clone()).get(request).await;
        let answer = answer
            .map_err(|status| call("the container", status))?
            .into_inner();
        answer.container.ok_or(IdentifyError::NoImage)
    }

    /// The image's target digest, and its manifest for this machine.
    async fn manifest_of(&self, name: &str) -> Result<(Digest, Manifest), IdentifyError> {
        let request = self.request(GetImageRequest {
            name: name.to_owned(),
        })?;
        let answer = match ImagesClient::new(self.channel.clone()).get(request).await {
            Err(status) if status.code() == Code::NotFound => {
                return Err(IdentifyError::ImageGone {
                    name: name.to_owned(),
                });
            }
            answer => answer.map_err(|status| call("the image", status))?.into_inner(),
        };
        let target = answer.image.and_then(|image| image.target);
        let target = target.ok_or_else(|| IdentifyError::ImageGone {
            name: name.to_owned(),
        })?;
        let target_digest = digest(&target.digest)?;
        let bytes = self.content(&target.digest).await?;
        let manifest_digest = match MediaType::from(target.media_type.as_str()) {
            MediaType::ImageIndex => Some(this_platform(&parse(&target.digest, &bytes)?)?),
            MediaType::Other(kind) if kind.ends_with("manifest.list.v2+json") => {
                Some(this_platform(&parse(&target.digest, &bytes)?)?)
            }
            _ => None,
        };
        let (text, bytes) = match manifest_digest {
            Some(text) => (text.clone(), self.content(&text).await?),
            None => (target.digest, bytes),
        };
        let manifest: ImageManifest = parse(&text, &bytes)?;
        Ok((
            target_digest,
            Manifest {
                digest: digest(&text)?,
                config: manifest.config().clone(),
            },
        ))
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, at: &Descriptor) -> Result<T, IdentifyError> {
        let name = at.digest().to_string();
        parse(&name, &self.content(&name).await?)
    }

    async fn content(&self, name: &str) -> Result<Vec<u8>, IdentifyError> {
        let expected = digest(name)?;
        let request = self.request(ReadContentRequest {
            digest: name.to_owned(),
            offset: 0,
            size: 0,
        })?;
        let answer = ContentClient::new(self.channel.clone()).read(request).await;
        let mut parts = answer
            .map_err(|status| call("an image document", status))?
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = parts
            .message()
            .await
            .map_err(|status| call("an image document", status))?
        {
            bytes.extend_from_slice(&part.data);
            if bytes.len() > DOCUMENT_LIMIT {
                return Err(IdentifyError::TooLarge {
                    digest: name.to_owned(),
                });
            }
        }
        if Digest::of(&bytes) != expected {
            return Err(IdentifyError::WrongBytes {
                digest: name.to_owned(),
            });
        }
        Ok(bytes)
    }

    /// The container's snapshot must stand on the image's layers; clients that put a layer of their own in between
    /// (Docker's `-init`) are followed one step.
    async fn check_parent(
        &self,
        container: &Container,
        docker: Option<Place>,
        expected: Digest,
    ) -> Result<(), IdentifyError> {
        let key = if container.snapshot_key.is_empty() {
            &container.id
        } else {
            &container.snapshot_key
        };
        let snapshotter = match docker.map(|place| place.layers) {
            Some(Layers::Containerd { snapshotter }) if container.snapshotter.is_empty() => snapshotter,
            _ => container.snapshotter.clone(),
        };
        let mut found = self.parent(&snapshotter, key).await?;
        if found.ends_with("-init") {
            found = self.parent(&snapshotter, &found).await?;
        }
        if found == expected.to_string() {
            return Ok(());
        }
        Err(IdentifyError::Moved {
            name: container.image.clone(),
            found,
            expected,
        })
    }

    async fn parent(&self, snapshotter: &str, key: &str) -> Result<String, IdentifyError> {
        let message = StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = SnapshotsClient::new(self.channel.clone())
            .stat(self.request(message)?)
            .await;
        let answer = answer.map_err(|status| call("the snapshot of the root filesystem", status))?;
        Ok(answer
            .into_inner()
            .info
            .map(|info| info.parent)
            .unwrap_or_default())
    }
}

/// Where Docker keeps the container, if it is Docker's.
fn docker_place(container: &Container) -> Option<Place> {
    #[derive(serde::Deserialize)]
    struct Spec {
        root: Root,
    }
    #[derive(serde::Deserialize)]
    struct Root {
        path: PathBuf,
    }
    container.labels.get(LABEL)?;
    let spec: Spec = serde_json::from_slice(&container.spec.as_ref()?.value).ok()?;
    Place::of(&spec.root.path, &container.id)
}

fn call(what: &'static str, status: Status) -> IdentifyError {
    IdentifyError::Call {
        what,
        source: Box::new(status),
    }
}

fn digest(text: &str) -> Result<Digest, IdentifyError> {
    text.parse().map_err(|_error| IdentifyError::Digest {
        text: text.chars().take(100).collect(),
    })
}

fn parse<T: serde::de::DeserializeOwned>(digest: &str, bytes: &[u8]) -> Result<T, IdentifyError> {
    serde_json::from_slice(bytes).map_err(|source| IdentifyError::Document {
        digest: digest.to_owned(),
        source,
    })
}

/// Digest of the manifest for this machine in an index.
fn this_platform(index: &ImageIndex) -> Result<String, IdentifyError> {
    let (os, arch) = (Os::default(), Arch::default());
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform()
            .as_ref()
            .is_some_and(|p| *p.os() == os && *p.architecture() == arch)
    };
    match index.manifests().iter().find(fits) {
        Some(descriptor) => Ok(descriptor.digest().to_string()),
        None => Err(IdentifyError::NoPlatform { os, arch }),
    }
}

/// OCI image spec, "Layer ChainID": each link is the digest of the chain below, a space, and the next diff id.
fn chain_id(diff_ids: &[String]) -> Result<Digest, IdentifyError> {
    let mut ids = diff_ids.iter();
    let mut chain = match ids.next() {
        Some(first) => digest(first)?,
        None => return Ok(Digest::of(b"")),
    };
    for id in ids {
        chain = Digest::of(format!("{chain} {}", digest(id)?).as_bytes());
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_one_layer_is_that_layer() {
        let layer = Digest::of(b"layer");
        assert_eq!(chain_id(&[layer.to_string()]).unwrap(), layer);
    }

    #[test]
    fn a_chain_of_two_layers() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let expected = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a.to_string(), b.to_string()]).unwrap(), expected);
    }

    #[test]
    fn only_docker_s_containers_are_looked_for_there() {
        let mut container = Container {
            id: "c1".to_owned(),
            ..Container::default()
        };
        let spec = container.spec.get_or_insert_default();
        spec.value = br#"{"root":{"path":"/var/lib/docker/overlay2/l1/merged"}}"#.to_vec();
        assert_eq!(docker_place(&container), None);
        container
            .labels
            .insert(LABEL.to_owned(), "/run/docker/c1".to_owned());
        let place = docker_place(&container).unwrap();
        assert_eq!(place.data_root, std::path::Path::new("/var/lib/docker"));
    }
}
