//! Events to containerd: one queue, one sender, so that they arrive in the order they were sent in.
//!
//! An event that containerd does not take is tried again before the next one is sent, and the connection is made
//! anew, because containerd may be restarting. When the shim ends, the queue is emptied first.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use thaw_runtime::words::chain;
use tokio::sync::{mpsc, oneshot};
use ttrpc::context::with_duration;

use crate::task::time::timestamp;

/// containerd's own limit for one event.
const FORWARD: Duration = Duration::from_secs(5);
/// How long one event is tried: longer than a restart of containerd takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// How many may wait; then new ones are dropped, as containerd has been away for long.
const QUEUE: usize = 2048;

enum Item {
    Event(Box<Envelope>),
    Drained(oneshot::Sender<()>),
}

/// Where events are put.
#[derive(Debug, Clone)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Item>,
}

impl Publisher {
    /// Starts the sender, which connects to `address` (containerd's ttrpc socket) when the first event comes.
    #[must_use]
    pub fn start(namespace: &str, address: Option<String>) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(items, address));
        Self {
            namespace: namespace.to_owned(),
            queue,
        }
    }

    /// Puts an event in the queue; the order of calls is the order of arrival.
    pub fn publish<E: Message>(&self, topic: &str, event: &E) {
        let value = event.write_to_bytes().unwrap_or_default();
        // All task events are in this package; asking the descriptor for it would load all of them into memory.
        let type_url = format!("containerd.events.{}", E::NAME);
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any {
                type_url,
                value,
                ..Any::default()
            }),
            ..Envelope::default()
        };
        if self.queue.try_send(Item::Event(Box::new(envelope))).is_err() {
            log::error!("event {topic} is dropped: containerd takes none");
        }
    }

    /// Waits until everything queued so far has been sent or given up, or `limit` has passed.
    pub async fn drain(&self, limit: Duration) {
        let (done, drained) = oneshot::channel();
        let wait = async {
            if self.queue.send(Item::Drained(done)).await.is_ok() {
                drained.await.ok();
            }
        };
        tokio::time::timeout(limit, wait).await.ok();
    }
}

async fn send_all(mut items: mpsc::Receiver<Item>, address: Option<String>) {
    let address = address.map(|path| {
        if path.contains("://") {
            path
        } else {
            format!("unix://{path}")
        }
    });
    let mut client = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Drained(done) => drop(done.send(())),
            Item::Event(envelope) => {
                if let Some(address) = &address {
                    send(&mut client, address, *envelope).await;
                }
            }
        }
    }
}

async fn send(client: &mut Option<EventsClient>, address: &str, envelope: Envelope) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest {
        envelope: MessageField::some(envelope),
        ..ForwardRequest::default()
    };
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let error = match attempt(client, address, &request).await {
            Ok(()) => return,
            Err(error) => error,
        };
        *client = None;
        if tokio::time::Instant::now() >= give_up {
            log::error!("event {topic} is dropped: {}", chain(&error));
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> Result<(), ttrpc::Error> {
    let connected = match client.take() {
        Some(connected) => connected,
        None => EventsClient::new(Client::connect(address).await?),
    };
    client
        .insert(connected)
        .forward(with_duration(FORWARD), request)
        .await
        .map(drop)
}
