//! `#[derive(Event)]`: writes the impl of `millstream::Event` that a user could write by hand, and nothing else.
//!
//! `attributes` reads what is asked for and refuses what is wrong, at its place and with the fix; `expand` writes
//! the impl.

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod attributes;
mod expand;

/// Implements `millstream::Event`. All that is asked for stands in `#[event(…)]`, and all of it is optional:
///
/// | attribute | says |
/// |---|---|
/// | `topic = "user.created"` | the topic; without it the registry must know one |
/// | `key = "user_id"` | the field to route by; an `Option` that is `None` is unkeyed |
/// | `key = format!("{}-{}", self.a, self.b)` | or any expression of `self` |
/// | `headers(tenant = tenant_id, "x-kind" = "user")` | headers: a field, a literal, or any expression of `self` |
/// | `type = "UserCreated"` | a name that travels, so that one topic can carry several types |
/// | `version = 2` | the version of that type |
/// | `format = "serde"` | how it becomes bytes: `"serde"` (default), `"protobuf"`, `"raw"`, or a type of yours |
/// | `crate = path::to::millstream` | where the toolkit is, if it was renamed |
///
/// Keys and header values are of types that are `millstream::AsKey`: text, bytes, numbers, and options of them.
/// An enum has no fields in common: give it an expression.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    attributes::Attributes::read(&input)
        .map_or_else(syn::Error::into_compile_error, |attributes| expand::expand(&input, &attributes))
        .into()
}
