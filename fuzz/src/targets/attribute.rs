//! What stands in `#[event(…)]`: it is expanded to an impl, or refused at its place; the macro never breaks.

use syn::spanned::Spanned as _;
use syn::{DeriveInput, Item};

use super::Target;
use crate::attributes::Attributes;
use crate::ours::expand::expand;

pub(super) const TARGET: Target = Target::new("attribute", run, seeds);

/// Deeper code is the compiler's to refuse, and it does.
const DEEP: usize = 64;

fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.bytes().filter(|byte| b"([{<&*-!|".contains(byte)).count() > DEEP {
        return;
    }
    let Ok(input) = syn::parse_str::<DeriveInput>(text) else { return };
    match Attributes::read(&input) {
        Ok(attributes) => {
            let expanded = expand(&input, &attributes);
            let shown = expanded.to_string();
            let item = syn::parse2::<Item>(expanded).unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert!(matches!(item, Item::Impl(_)), "{shown}");
        }
        Err(error) => {
            for mistake in error {
                assert!(!mistake.to_string().is_empty());
                let _ = mistake.span().span();
                let _ = mistake.into_compile_error();
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        r#"#[event(topic = "user.created", key = "user_id")] struct UserCreated { user_id: String }"#,
        r#"#[event(headers(tenant, "x-kind" = "user", a = self.n.to_string()))] struct E<T: Clone> { tenant: T, n: u8 }"#,
        r#"#[event(key = format!("{}", self.0), type = "T", version = 2)] struct E(u8);"#,
        r#"#[event(format = "protobuf", crate = a::b)] enum E { A, B { x: u8 } }"#,
        r#"#[event(format = Own::<u8>)] #[event(topic = "t")] struct E;"#,
        r#"#[event(headers("a b", r#type = 7))] struct E { r#type: u8 }"#,
        r#"#[event(headers("Vec<u8>", "a::b"))] struct E { a: u8 }"#,
        r#"#[event(topic = "", topic = "x", version = -1, nothing)] union U { a: u8 }"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
