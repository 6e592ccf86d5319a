//! Publishes one message and receives it.
use sapwood_client::{Event, blocking::Client};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7400".into());
    let client = Client::connect(address)?;
    let mut news = client.subscribe("news.>")?;
    client.publish("news.art", "hello")?;
    if let Some(Event::Message(message)) = news.next() {
        println!("{}: {}", message.topic_text(), message.text());
    }
    Ok(())
}
