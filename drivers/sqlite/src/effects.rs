//! A handler's own SQL, for the transaction that acknowledges its message.

use std::fmt;

use millstream_core::{BoxError, Effect, Result};
use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{Connection, ToSql};

type Run = dyn Fn(&Connection) -> Result<(), BoxError> + Send;

/// SQL on the bus's own file, to commit with an acknowledgement: it happens if and only if the message is done.
///
/// It runs after the handler returned `Ok`, on the driver's writing thread, in a savepoint of its own. If it fails,
/// all of this message's part is undone and it counts as a failed attempt. It may run more than once; only its last
/// run commits. While it runs nobody else can write: keep it short. It cannot end the transaction, attach files or
/// set pragmas.
pub struct SqlEffect {
    run: Box<Run>,
    /// Millstream's own work, which may change Millstream's own tables.
    own: bool,
}

impl SqlEffect {
    /// Any work on the connection.
    pub fn new(work: impl Fn(&Connection) -> Result<(), BoxError> + Send + 'static) -> Self {
        Self { run: Box::new(work), own: false }
    }

    /// Work of Millstream's own, which is not kept from its tables.
    pub(crate) fn own(work: impl Fn(&Connection) -> Result<(), BoxError> + Send + 'static) -> Self {
        Self { run: Box::new(work), own: true }
    }

    /// One statement with its parameters.
    ///
    /// # Errors
    /// If a parameter is no value of SQLite's, such as a `u64` above `i64::MAX`.
    pub fn statement(sql: impl Into<String>, parameters: impl Parameters) -> rusqlite::Result<Self> {
        let (sql, values) = (sql.into(), parameters.into_values()?);
        Ok(Self::new(move |connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            // A statement that returns rows (`RETURNING`) has to be stepped to its end.
            let mut rows = statement.query(rusqlite::params_from_iter(&values))?;
            while rows.next()?.is_some() {}
            Ok(())
        }))
    }

    /// As what a [`Settlement`](millstream_core::Settlement) takes along.
    #[must_use]
    pub fn into_effect(self) -> Effect {
        Effect::new(self)
    }

    pub(crate) fn run(&self, connection: &Connection) -> Result<(), BoxError> {
        (self.run)(connection)
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own
    }
}

impl fmt::Debug for SqlEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqlEffect(..)")
    }
}

/// The parameters of a statement, `?1` and on: a tuple of up to twelve, an array or a `Vec`, of anything that is
/// [`ToSql`].
pub trait Parameters {
    /// Their values, taken now.
    ///
    /// # Errors
    /// If one is no value of SQLite's.
    fn into_values(self) -> rusqlite::Result<Vec<Value>>;
}

fn value(parameter: &impl ToSql) -> rusqlite::Result<Value> {
    match parameter.to_sql()? {
        ToSqlOutput::Owned(value) => Ok(value),
        ToSqlOutput::Borrowed(value) => {
            Ok(value.try_into().map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?)
        }
        _ => Err(rusqlite::Error::ToSqlConversionFailure("this kind of parameter cannot be kept".into())),
    }
}

impl Parameters for () {
    fn into_values(self) -> rusqlite::Result<Vec<Value>> {
        Ok(Vec::new())
    }
}

impl<T: ToSql> Parameters for Vec<T> {
    fn into_values(self) -> rusqlite::Result<Vec<Value>> {
        self.iter().map(value).collect()
    }
}

impl<T: ToSql, const N: usize> Parameters for [T; N] {
    fn into_values(self) -> rusqlite::Result<Vec<Value>> {
        self.iter().map(value).collect()
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: ToSql),+> Parameters for ($($name,)+) {
            fn into_values(self) -> rusqlite::Result<Vec<Value>> {
                #[allow(non_snake_case, reason = "the types' names serve as the values' names")]
                let ($($name,)+) = self;
                Ok(vec![$(value(&$name)?),+])
            }
        }
    };
}
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);
