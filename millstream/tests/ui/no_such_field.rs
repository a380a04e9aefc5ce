#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "user.created", key = "user")]
struct UserCreated {
    user_id: String,
    name: String,
}

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(headers(tenant = tenant))]
struct Empty;

fn main() {}
