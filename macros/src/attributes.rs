//! What stands in `#[event(…)]`.

use std::fmt::Display;

use proc_macro2::Span;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{
    Data, DeriveInput, Error, Expr, ExprLit, ExprPath, Fields, Ident, Lit, LitInt, LitStr, Member, Path,
    Result, Token,
};

/// The longest name of a topic, as `millstream_core::Limits` has it.
const TOPIC_LIMIT: usize = 249;

const KNOWN: &str = "topic, key, headers, type, version, format, crate";

/// All that is asked for.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) topic: Option<LitStr>,
    pub(crate) key: Option<Value>,
    pub(crate) headers: Vec<(LitStr, Value)>,
    pub(crate) type_name: Option<LitStr>,
    pub(crate) version: Option<u32>,
    pub(crate) format: Option<Format>,
    pub(crate) krate: Option<Path>,
}

/// Where a key or a header comes from.
pub(crate) enum Value {
    Literal(LitStr),
    Field(Member, Span),
    Expression(Expr),
}

/// How it becomes bytes.
pub(crate) enum Format {
    Serde,
    Protobuf,
    Raw,
    Own(Path),
}

/// One header as it is written: a name, `=`, a value.
struct HeaderPair {
    name: LitStr,
    value: Expr,
}

impl Parse for HeaderPair {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = if input.peek(LitStr) {
            input.parse::<LitStr>()?
        } else {
            let ident = input.call(Ident::parse_any)?;
            LitStr::new(&ident.unraw().to_string(), ident.span())
        };
        if input.is_empty() || input.peek(Token![,]) {
            // A name alone is the field of that name.
            let path: Path = name.parse()?;
            return Ok(Self { name, value: Expr::Path(ExprPath { attrs: Vec::new(), qself: None, path }) });
        }
        input.parse::<Token![=]>()?;
        Ok(Self { name, value: input.parse()? })
    }
}

impl Attributes {
    /// Reads them all; every mistake is told, not just the first.
    pub(crate) fn read(input: &DeriveInput) -> Result<Self> {
        if let Data::Union(data) = &input.data {
            return Err(Error::new(
                data.union_token.span,
                "a union cannot be an event, since nobody knows which of its fields holds: use a struct or an enum",
            ));
        }
        let mut attributes = Self::default();
        let mut mistakes: Option<Error> = None;
        let mut told = |result: Result<()>| {
            if let Err(error) = result {
                match &mut mistakes {
                    Some(all) => all.combine(error),
                    None => mistakes = Some(error),
                }
            }
        };
        for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
            let result = attribute.parse_args_with(|stream: ParseStream<'_>| {
                while !stream.is_empty() {
                    // A wrong value does not keep those behind it from being read.
                    told(attributes.read_one(input, stream)?);
                    if !stream.is_empty() {
                        stream.parse::<Token![,]>()?;
                    }
                }
                Ok(())
            });
            told(result);
        }
        match mistakes {
            Some(error) => Err(error),
            None => Ok(attributes),
        }
    }

    /// Reads one. The outer error: what follows cannot be read; the inner one: it is wrong.
    fn read_one(&mut self, input: &DeriveInput, stream: ParseStream<'_>) -> Result<Result<()>> {
        let name = stream.call(Ident::parse_any)?;
        let text = name.to_string();
        if text == "headers" {
            let inside;
            syn::parenthesized!(inside in stream);
            let pairs = Punctuated::<HeaderPair, Token![,]>::parse_terminated(&inside)?;
            return Ok(self.add_headers(input, pairs));
        }
        if !["topic", "key", "type", "version", "format", "crate"].contains(&text.as_str()) {
            return Err(Error::new(name.span(), format!("unknown attribute `{text}`; there are: {KNOWN}")));
        }
        stream.parse::<Token![=]>()?;
        Ok(match text.as_str() {
            "topic" => {
                let topic: LitStr = stream.parse()?;
                check_topic(&topic).and_then(|()| once(&mut self.topic, topic, &name))
            }
            "key" => {
                let value: Expr = stream.parse()?;
                key(input, value).and_then(|key| once(&mut self.key, key, &name))
            }
            "type" => {
                let value: LitStr = stream.parse()?;
                if value.value().is_empty() {
                    Err(Error::new(value.span(), "the type's name is empty: name it, or leave `type` out"))
                } else {
                    once(&mut self.type_name, value, &name)
                }
            }
            "version" => {
                let value: LitInt = stream.parse()?;
                value
                    .base10_parse()
                    .map_err(|_| Error::new(value.span(), "a version is a number from 0 to 4294967295"))
                    .and_then(|version| once(&mut self.version, version, &name))
            }
            "format" => {
                let format = if stream.peek(LitStr) {
                    named_format(&stream.parse()?)
                } else {
                    Ok(Format::Own(stream.parse()?))
                };
                format.and_then(|format| once(&mut self.format, format, &name))
            }
            _ => {
                let path = stream.call(Path::parse_mod_style)?;
                once(&mut self.krate, path, &name)
            }
        })
    }

    fn add_headers(&mut self, input: &DeriveInput, pairs: Punctuated<HeaderPair, Token![,]>) -> Result<()> {
        for HeaderPair { name, value } in pairs {
            let text = name.value();
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(Error::new(
                    name.span(),
                    "a header's name is empty or has control characters: use a visible name",
                ));
            }
            if text.starts_with("millstream-") {
                return Err(Error::new(
                    name.span(),
                    "header names that start with `millstream-` are reserved: use another; \
                     `type` and `version` have attributes of their own",
                ));
            }
            let value = match value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Value::Literal(text),
                Expr::Path(path) if path.path.get_ident().is_some() => {
                    let span = path.path.segments[0].ident.span();
                    Value::Field(field(input, &path.path.segments[0].ident.unraw().to_string(), span)?, span)
                }
                other => Value::Expression(other),
            };
            self.headers.push((name, value));
        }
        Ok(())
    }
}

fn once<T>(place: &mut Option<T>, value: T, name: &Ident) -> Result<()> {
    if place.is_some() {
        return Err(Error::new(name.span(), format!("`{name}` stands here twice: keep one")));
    }
    *place = Some(value);
    Ok(())
}

fn check_topic(topic: &LitStr) -> Result<()> {
    let text = topic.value();
    let wrong = |what: &dyn Display| Err(Error::new(topic.span(), what));
    if text.is_empty() {
        return wrong(&"the topic is empty: name one, or leave `topic` out and register one at run time");
    }
    if text.len() > TOPIC_LIMIT {
        return wrong(&format_args!(
            "the topic's name has {} bytes, the limit is {TOPIC_LIMIT}: use a shorter name",
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return wrong(&"the topic's name has control characters: remove them; a NUL byte is one");
    }
    Ok(())
}

fn named_format(name: &LitStr) -> Result<Format> {
    match name.value().as_str() {
        "serde" => Ok(Format::Serde),
        "protobuf" => Ok(Format::Protobuf),
        "raw" => Ok(Format::Raw),
        other => Err(Error::new(
            name.span(),
            format!(
                "unknown format {other:?}; there are: \"serde\", \"protobuf\", \"raw\", or without quotes a type \
                 that implements `Format`"
            ),
        )),
    }
}

fn key(input: &DeriveInput, value: Expr) -> Result<Value> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(name), .. }) => {
            Ok(Value::Field(field(input, &name.value(), name.span())?, name.span()))
        }
        Expr::Path(path) if path.path.get_ident().is_some_and(|ident| ident != "self") => {
            let ident = &path.path.segments[0].ident;
            Err(Error::new(
                ident.span(),
                format!("a field is named in quotes: `key = \"{ident}\"`; an expression starts at `self`"),
            ))
        }
        other => Ok(Value::Expression(other)),
    }
}

/// The field of this name or number.
fn field(input: &DeriveInput, name: &str, span: Span) -> Result<Member> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(
            span,
            "an enum has no fields in common: use an expression, such as `match self { … }` or a method of its own",
        ));
    };
    let found = data.fields.members().find(|member| match member {
        Member::Named(ident) => ident.unraw() == name.trim_start_matches("r#"),
        Member::Unnamed(index) => index.index.to_string() == name,
    });
    found.ok_or_else(|| {
        let there: Vec<_> = data
            .fields
            .members()
            .map(|member| match member {
                Member::Named(ident) => format!("`{}`", ident.unraw()),
                Member::Unnamed(index) => format!("`{}`", index.index),
            })
            .collect();
        let fix = match (&data.fields, there.is_empty()) {
            (Fields::Unit, _) | (_, true) => "it has no fields".to_owned(),
            _ => format!("its fields are: {}", there.join(", ")),
        };
        Error::new(span, format!("`{}` has no field `{name}`; {fix}", input.ident))
    })
}
