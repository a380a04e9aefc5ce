#[derive(millstream::Event)]
#[event(topic = "t")]
union Bits {
    number: u32,
    bytes: [u8; 4],
}

fn main() {}
