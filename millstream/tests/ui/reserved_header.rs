#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(headers("millstream-type" = "x", "" = "y"))]
struct UserCreated {}

fn main() {}
