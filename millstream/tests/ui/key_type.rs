#[derive(serde::Serialize, serde::Deserialize)]
struct Price(f64);

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t", key = "price")]
struct Priced {
    price: Price,
}

fn main() {}
