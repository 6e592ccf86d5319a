//! JSON values as payloads.
//!
//! Owns the conversion in both directions and the content type. Must not know connections. Both clients have the calls.

use crate::error::PublishError;
use crate::message::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// The header that names a payload's type.
pub const CONTENT_TYPE: &str = "content-type";
/// Its value for JSON.
pub const JSON: &str = "application/json";

/// Why a value could not be published, or a payload could not be read as one.
#[derive(Debug)]
#[non_exhaustive]
pub enum ValueError {
    /// The value cannot be written as JSON, or the payload is not JSON of this type.
    Json(serde_json::Error),
    /// The publish failed.
    Publish(PublishError),
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueError::Json(error) => write!(f, "not the expected JSON: {error}"),
            ValueError::Publish(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ValueError {}

impl Message {
    /// The payload parsed from JSON as a value, whatever its content type.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, ValueError> {
        serde_json::from_slice(self.payload()).map_err(ValueError::Json)
    }
}

/// Encodes a value as a payload.
pub(crate) fn payload(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, ValueError> {
    serde_json::to_vec(value).map_err(ValueError::Json)
}

#[cfg(feature = "tokio")]
impl crate::tokio::Client {
    /// Publishes a value as JSON, with the content type `application/json`, as
    /// [`publish`](crate::tokio::Client::publish) does.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs"));
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let broker = Broker::start();
    /// # let client = sapwood_client::Client::connect(broker.address()).await?;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Debug, Deserialize, PartialEq, Serialize)]
    /// struct Order {
    ///     id: u32,
    ///     items: Vec<String>,
    /// }
    ///
    /// let mut orders = client.subscribe("orders").await?;
    /// let order = Order { id: 7, items: vec!["tea".to_string()] };
    /// client.publish_value("orders", &order).await?;
    ///
    /// let event = orders.next().await.expect("the client is not closed");
    /// let message = event.message().expect("nothing was missed");
    /// assert_eq!(message.header("content-type"), Some(&b"application/json"[..]));
    /// assert_eq!(message.value::<Order>()?, order);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_value(
        &self,
        topic: impl AsRef<[u8]>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), ValueError> {
        let payload = payload(value)?;
        let message = crate::Outgoing::new(&topic, &payload).header(CONTENT_TYPE, JSON);
        self.publish_message(&message)
            .await
            .map_err(ValueError::Publish)
    }
}

#[cfg(feature = "blocking")]
impl crate::blocking::Client {
    /// Publishes a value as JSON, with the content type `application/json`, as
    /// [`publish`](crate::blocking::Client::publish) does.
    pub fn publish_value(
        &self,
        topic: impl AsRef<[u8]>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<(), ValueError> {
        let payload = payload(value)?;
        let message = crate::Outgoing::new(&topic, &payload).header(CONTENT_TYPE, JSON);
        self.publish_message(&message).map_err(ValueError::Publish)
    }
}
