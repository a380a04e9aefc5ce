//! Writing the impl.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Expr, parse_quote};

use crate::attributes::{Attributes, Format, Value};

/// The impl of `Event`, with only what differs from the trait's defaults.
pub(crate) fn expand(input: &DeriveInput, attributes: &Attributes) -> TokenStream {
    let name = &input.ident;
    let krate = attributes.krate.clone().unwrap_or_else(|| parse_quote!(::millstream));
    // At the type's own place: a type that cannot be encoded is told there.
    let format = match &attributes.format {
        None | Some(Format::Serde) => quote_spanned!(name.span()=> #krate::event::Serde),
        Some(Format::Protobuf) => quote_spanned!(name.span()=> #krate::event::Protobuf),
        Some(Format::Raw) => quote_spanned!(name.span()=> #krate::event::Raw),
        Some(Format::Own(path)) => quote!(#path),
    };

    let mut generics = input.generics.clone();
    if !generics.params.is_empty() {
        let (_, arguments, _) = input.generics.split_for_impl();
        let itself = quote!(#name #arguments);
        let bounds = generics.make_where_clause();
        bounds.predicates.push(parse_quote!(#itself: ::core::marker::Send + ::core::marker::Sync + 'static));
        bounds.predicates.push(parse_quote!(#format: #krate::event::Format<#itself>));
    }
    let (params, _, bounds) = generics.split_for_impl();
    let (_, arguments, _) = input.generics.split_for_impl();

    let topic =
        attributes.topic.as_ref().map(|topic| constant("TOPIC", &quote!(&'static str), &quote!(#topic)));
    let type_name =
        attributes.type_name.as_ref().map(|name| constant("TYPE", &quote!(&'static str), &quote!(#name)));
    let version = attributes.version.map(|version| constant("VERSION", &quote!(u32), &quote!(#version)));
    let key = attributes.key.as_ref().map(|key| key_method(key, &krate));
    let headers = (!attributes.headers.is_empty()).then(|| headers_method(attributes, &krate));

    quote! {
        #[automatically_derived]
        // A path that the user gave may be longer than it had to be where it lands.
        #[allow(unused_qualifications)]
        impl #params #krate::Event for #name #arguments #bounds {
            type Format = #format;
            #topic
            #type_name
            #version
            #key
            #headers
        }
    }
}

fn constant(name: &str, of: &TokenStream, value: &TokenStream) -> TokenStream {
    let name = quote::format_ident!("{name}");
    quote! { const #name: ::core::option::Option<#of> = ::core::option::Option::Some(#value); }
}

fn key_method(key: &Value, krate: &syn::Path) -> TokenStream {
    let body = match key {
        Value::Literal(text) => quote!(#krate::AsKey::as_key(#text)),
        Value::Field(member, span) => quote_spanned!(*span=> #krate::AsKey::as_key(&self.#member)),
        // A place inside of `self` outlives the call; a value does not.
        Value::Expression(place @ Expr::Field(_)) => quote!(#krate::AsKey::as_key(&#place)),
        Value::Expression(value) => quote! {
            #krate::AsKey::as_key(&(#value)).map(|key| ::std::borrow::Cow::Owned(key.into_owned()))
        },
    };
    quote! {
        fn key(&self) -> ::core::option::Option<::std::borrow::Cow<'_, [u8]>> {
            #body
        }
    }
}

fn headers_method(attributes: &Attributes, krate: &syn::Path) -> TokenStream {
    let entries = attributes.headers.iter().map(|(name, value)| {
        let name = quote!(#krate::ByteString::from_static(#name));
        let value = match value {
            Value::Literal(text) => {
                return quote! {
                    headers.insert(#name, #krate::Bytes::from_static(#text.as_bytes()));
                };
            }
            Value::Field(member, span) => quote_spanned!(*span=> #krate::AsKey::as_key(&self.#member)),
            Value::Expression(value) => quote!(#krate::AsKey::as_key(&(#value))),
        };
        quote! {
            if let ::core::option::Option::Some(value) = #value {
                headers.insert(#name, value.into_owned());
            }
        }
    });
    quote! {
        fn headers(&self, headers: &mut #krate::Headers) {
            #(#entries)*
        }
    }
}
