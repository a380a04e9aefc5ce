//! A connection to a cluster: what reader, writer and administration share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result, StoreId};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::task::spawn_blocking;

use crate::ages::Ages;
use crate::ears::Ears;
use crate::member::Member;
use crate::security::reasons;
use crate::security::tokens::Tokens;
use crate::serving::Serving;
use crate::settings::{ANSWER_WITHIN, Create, OVERHEAD, Settings};
use crate::wire::check_topic;
use crate::{doctor, errors};

/// How long a cluster may take to answer when a program connects.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long it is waited for its answer at first. Then it is looked whether there is a reason that stays, such as a wrong
/// password, which is told at once; else it is asked again, and waited for twice as long: long enough for any network.
const FIRST_WITHIN: Duration = Duration::from_millis(250);

/// How long the first token may take.
const TOKEN_WITHIN: Duration = Duration::from_secs(5);

/// How long a topic that was just made may take until every broker knows it.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);

/// A client that asks, and never reads.
pub(crate) type Asker = BaseConsumer<Ears>;

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) partitions: u32,
    /// Bytes of a message at most, by the topic's own limit and ours.
    pub(crate) max_message: usize,
}

pub(crate) struct Cluster {
    /// The first to be dropped: it ends before the clients do.
    serving: Serving,
    pub(crate) settings: Settings,
    /// Names this connection to the toolkit.
    pub(crate) store: StoreId,
    pub(crate) ears: Ears,
    asker: Arc<Asker>,
    /// None with OAUTHBEARER.
    admin: Option<AdminClient<Ears>>,
    topics: Mutex<HashMap<String, Topic>>,
    groups: Mutex<HashMap<String, Arc<Asker>>>,
    members: Mutex<HashMap<String, Vec<Weak<Member>>>>,
    pub(crate) ages: Ages,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("brokers", &self.settings.brokers).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Connects, and asks the cluster something: that no broker is there shows now.
    pub(crate) async fn connect(settings: Settings) -> Result<Arc<Self>> {
        let tokens = match settings.security.provider() {
            Some(provider) => Some(Tokens::start(provider.clone(), TOKEN_WITHIN).await?),
            None => None,
        };
        let with_tokens = tokens.is_some();
        let ears = Ears::new(&settings.security, tokens);
        let refused = |e| errors::settings(&e, "the settings of kafka:// were refused");
        let mut config = settings.client();
        let asker = Asker::from_config_and_context(&config, ears.for_another()).map_err(refused)?;
        let asker = Arc::new(asker);
        let serving = Serving::start()?;
        serving.add(&asker);
        first_answer(&settings, &ears, &asker).await?;
        // Nobody polls what this one tells, and what it does not tell takes no memory.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let admin = if with_tokens {
            // rdkafka's client of the administration has no way to be given a token.
            None
        } else {
            Some(AdminClient::from_config_and_context(&config, ears.for_another()).map_err(refused)?)
        };
        Ok(Arc::new(Self {
            serving,
            settings,
            store: StoreId::unique(),
            ears,
            asker,
            admin,
            topics: Mutex::default(),
            groups: Mutex::default(),
            members: Mutex::default(),
            ages: Ages::default(),
        }))
    }

    /// The client of the administration.
    pub(crate) fn admin(&self) -> Result<&AdminClient<Ears>> {
        self.admin.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the client library cannot log in its administration with OAUTHBEARER: topics are neither made nor purged",
            )
            .fix("do it by the broker's own tools, or through a connection that logs in otherwise")
        })
    }

    /// Asks on a thread that may block.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Asker) -> T + Send + 'static,
    ) -> T {
        let asker = Arc::clone(&self.asker);
        match spawn_blocking(move || question(&asker)).await {
            Ok(answer) => answer,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// An error of a question, with the reason that the connection gave for it.
    pub(crate) fn unreachable(&self, error: &KafkaError) -> Error {
        unreachable(&self.settings, &self.ears, &self.asker, error)
    }

    /// The asker of a group, which reads and writes its positions without joining it.
    pub(crate) fn group(&self, group: &str) -> Result<Arc<Asker>> {
        let mut groups = lock(&self.groups);
        if let Some(asker) = groups.get(group) {
            return Ok(Arc::clone(asker));
        }
        let asker = self.new_group(group)?;
        groups.insert(group.to_owned(), Arc::clone(&asker));
        Ok(asker)
    }

    /// The same, kept by nobody.
    pub(crate) fn new_group(&self, group: &str) -> Result<Arc<Asker>> {
        let config = self.settings.asking(group);
        let asker = Asker::from_config_and_context(&config, self.ears.for_another());
        let asker =
            asker.map_err(|e| errors::settings(&e, "the client of a group was refused").group(group))?;
        let asker = Arc::new(asker);
        self.serving.add(&asker);
        Ok(asker)
    }

    /// A member joined its group through this connection.
    pub(crate) fn joined(&self, group: &str, member: &Arc<Member>) {
        let mut members = lock(&self.members);
        let list = members.entry(group.to_owned()).or_default();
        list.retain(|m| m.strong_count() > 0);
        list.push(Arc::downgrade(member));
    }

    /// A member of a group that joined it through this connection and has not left. What it commits, the broker refuses
    /// once the group went on without it; and a commit of no member's it refuses while the group has members.
    pub(crate) fn member_of(&self, group: &str) -> Option<Arc<Member>> {
        let members = lock(&self.members);
        members.get(group)?.iter().filter_map(Weak::upgrade).find(|member| member.is_in())
    }

    /// What is known of a topic; makes it, if that is allowed.
    pub(crate) async fn topic(&self, name: &str) -> Result<Topic> {
        if let Some(topic) = self.known(name) {
            return Ok(topic);
        }
        check_topic(name)?;
        if let Some(topic) = self.look(name).await? {
            return Ok(topic);
        }
        if self.settings.create != Create::Missing {
            return Err(Error::new(ErrorKind::NotFound, "there is no such topic")
                .topic(name)
                .fix("make it first, or leave out `create` in the URL so that it is made"));
        }
        self.make(name, None).await?;
        self.wait_for(name).await
    }

    /// What is known of a topic that is written to: nothing, where it is taken for granted.
    pub(crate) async fn target(&self, name: &str) -> Result<Topic> {
        if self.settings.create == Create::Assume {
            check_topic(name)?;
            return Ok(Topic { partitions: 0, max_message: self.settings.max_message });
        }
        self.topic(name).await
    }

    pub(crate) fn known(&self, name: &str) -> Option<Topic> {
        lock(&self.topics).get(name).copied()
    }

    /// Asks for a topic, and remembers it.
    pub(crate) async fn look(&self, name: &str) -> Result<Option<Topic>> {
        let wanted = name.to_owned();
        let found = self
            .ask(move |asker| {
                let metadata = asker.fetch_metadata(Some(&wanted), ANSWER_WITHIN)?;
                let topic = metadata.topics().iter().find(|t| t.name() == wanted);
                // One that is just being made has no leaders yet.
                Ok(topic.filter(|t| t.error().is_none()).map(|t| {
                    let led = t.partitions().iter().all(|p| p.leader() >= 0 && p.error().is_none());
                    (u32::try_from(t.partitions().len()).unwrap_or(0), led)
                }))
            })
            .await
            .map_err(|e: KafkaError| self.unreachable(&e).topic(name))?;
        let Some((partitions, true)) = found.filter(|(partitions, _)| *partitions > 0) else {
            return Ok(None);
        };
        let max_message = self.max_message(name).await;
        let topic = Topic { partitions, max_message };
        lock(&self.topics).insert(name.to_owned(), topic);
        Ok(Some(topic))
    }

    /// The largest message of a topic: a batch with one that the broker refuses takes its neighbours along, so it must
    /// not come to that.
    async fn max_message(&self, name: &str) -> usize {
        let own = self.settings.max_message;
        let wanted = ResourceSpecifier::Topic(name);
        // Who may not ask keeps our own limit.
        let Ok(admin) = self.admin() else { return own };
        let Ok(answers) = admin.describe_configs([&wanted], &options()).await else { return own };
        let limit = answers.into_iter().flatten().find_map(|resource| {
            let entry = resource.get("max.message.bytes")?.value.as_ref()?;
            entry.parse::<usize>().ok()
        });
        limit.map_or(own, |limit| own.min(limit.saturating_sub(OVERHEAD)))
    }

    /// Makes a topic; says whether it was made now.
    pub(crate) async fn make(&self, name: &str, partitions: Option<u32>) -> Result<bool> {
        // Dead letters and parked messages wait until somebody has seen to them.
        let kept = doctor::KEPT.iter().any(|ending| name.ends_with(ending)).then(|| "-1".to_owned());
        let age = || self.settings.retention_age.map(|age| age.as_millis().to_string());
        let size = || self.settings.retention_size.map(|size| size.to_string());
        let (age, size) = (kept.clone().or_else(age), kept.or_else(size));
        let partitions = partitions.or(self.settings.partitions);
        // -1: as the broker is set.
        let partitions = partitions.and_then(|p| i32::try_from(p).ok()).unwrap_or(-1);
        let replication = self.settings.replication.map_or(-1, i32::from);
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        if let Some(age) = &age {
            topic = topic.set("retention.ms", age);
        }
        if let Some(size) = &size {
            topic = topic.set("retention.bytes", size);
        }
        let admin = self.admin().map_err(|e| e.topic(name))?;
        let made = admin.create_topics([&topic], &options()).await;
        let made = made.map_err(|e| errors::of(&e, "the topic was not made").topic(name))?;
        match made.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(errors::of_code(code, "the topic was not made").topic(name)),
            Some(Ok(_)) | None => Ok(true),
        }
    }

    /// Waits until a topic that was made is known.
    pub(crate) async fn wait_for(&self, name: &str) -> Result<Topic> {
        let until = Instant::now() + KNOWN_WITHIN;
        loop {
            if let Some(topic) = self.look(name).await? {
                return Ok(topic);
            }
            if Instant::now() > until {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the topic was made, and no broker knows it yet",
                )
                .topic(name)
                .fix("look whether a broker is down; then try again"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Forgets what is known of a topic, which may have changed.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.topics).remove(name);
    }
}

/// Asks the cluster anything, until it answers, says why it never will, or the time is over.
async fn first_answer(settings: &Settings, ears: &Ears, asker: &Arc<Asker>) -> Result<()> {
    let (until, mut within) = (Instant::now() + CONNECT_WITHIN, FIRST_WITHIN);
    loop {
        let (asked, left) = (Arc::clone(asker), until.saturating_duration_since(Instant::now()));
        let last = left <= within * 2;
        let wait = if last { left } else { within };
        let asking = spawn_blocking(move || asked.fetch_metadata(Some("__consumer_offsets"), wait).map(drop));
        let Err(error) = asking.await.map_err(|e| errors::broken(&e))? else {
            ears.answered();
            return Ok(());
        };
        let error = unreachable(settings, ears, asker, &error);
        if last || !error.is_retryable() {
            return Err(error);
        }
        within *= 2;
    }
}

/// An error of a question, with the reason that the connection gave for it.
fn unreachable(settings: &Settings, ears: &Ears, asker: &Asker, error: &KafkaError) -> Error {
    let own = error.rdkafka_error_code();
    if own.is_some_and(|code| code != Code::Authentication && errors::kind_of(code) == ErrorKind::Denied) {
        return errors::of(error, "the cluster does not answer this user");
    }
    // Reasons wait to be taken, among other events.
    for _ in 0..20 {
        if ears.reason().is_some() {
            break;
        }
        let _ = asker.poll(Duration::from_millis(5));
    }
    let what = |sentence: &str| format!("no broker of {} answered: {sentence}", settings.brokers);
    if let Some((sentence, fix)) = ears.guess() {
        return Error::new(ErrorKind::Unavailable, what(&sentence)).fix(fix);
    }
    match ears.reason() {
        Some(reason) => {
            let (kind, fix) = reason.meaning();
            Error::new(kind, what(&reason.sentence)).fix(fix)
        }
        None => Error::new(ErrorKind::Unavailable, what(&error.to_string())).fix(reasons::meaning(own, "").1),
    }
}

/// For calls of the administration: they wait until it is done.
pub(crate) fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN))
}
