//! Files of the program, of the derive macro and of drivers, built in as they are: no library exports them.
#![allow(dead_code, unreachable_pub, clippy::all, reason = "each target uses its own part of them")]

#[path = "../../macros/src/attributes.rs"]
pub(crate) mod attributes;
#[path = "../../cli/src/dead_letters/describe.rs"]
pub(crate) mod describe;
#[path = "../../macros/src/expand.rs"]
pub(crate) mod expand;
#[path = "../../cli/src/dead_letters/filter.rs"]
pub(crate) mod filter;
#[path = "../../cli/src/publish/lines.rs"]
pub(crate) mod lines;
#[path = "../../cli/src/moment.rs"]
pub(crate) mod moment;
#[path = "../../drivers/objects/src/wire.rs"]
pub(crate) mod object_line;
#[path = "../../cli/src/publish/payload.rs"]
pub(crate) mod payload;
#[path = "../../cli/src/text.rs"]
pub(crate) mod text;
#[path = "../../cli/src/wire.rs"]
pub(crate) mod wire;
