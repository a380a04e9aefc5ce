#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "")]
struct Empty {}

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "with\0nul")]
struct Nul {}

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name a very long name")]
struct Long {}

fn main() {}
