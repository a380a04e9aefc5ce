#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t", key = "id")]
enum Shape {
    Circle { id: String },
}

fn main() {}
