#[derive(millstream::Event)]
#[event(topic = "t")]
struct Bare {
    id: String,
}

fn main() {}
