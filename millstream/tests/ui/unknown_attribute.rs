#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(subject = "user.created")]
struct UserCreated {
    user_id: String,
}

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "a", topic = "b", key = user_id, format = "xml", version = "2")]
struct Twice {
    user_id: String,
}

fn main() {}
