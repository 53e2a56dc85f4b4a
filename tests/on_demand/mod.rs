//! A collector that flushes on demand only, for tests of what a whole process does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use runtime_metrics::clock::Clock;
use runtime_metrics::collector::{Answer, Collector, Interpreter};
use runtime_metrics::identity::IdentityInputs;
use runtime_metrics::message::Message;
use runtime_metrics::settings::variables::Environment;
use runtime_metrics::settings::{Arguments, Settings, Surroundings};
use runtime_metrics::sources::Counters;

/// An interpreter that is never asked: a flush brings its answer, if there is one.
struct Unasked;

impl Interpreter for Unasked {
    fn read(&self, _entered: &dyn Fn()) -> Option<Answer> {
        unreachable!("nothing ticks")
    }

    fn enter(&self, entered: &dyn Fn()) {
        entered();
    }

    fn log(&self, messages: Vec<Message>) -> Vec<Message> {
        messages
    }
}

/// What it is started with: it sends to a UDP port, without the rows of `excluded`.
pub fn settings(receiver: SocketAddr, excluded: &str) -> Settings {
    let arguments = Arguments {
        dogstatsd_url: Some(format!("udp://{receiver}")),
        flush_interval: Some(3600.0),
        ..Arguments::default()
    };
    let surroundings = Surroundings {
        default_socket: Path::new("/nowhere"),
        has_default_socket: false,
        has_extension: false,
    };
    let environment = Environment::from([("DD_RUNTIME_METRICS_EXCLUDE", excluded)]);
    Settings::new(&arguments, &environment, surroundings).unwrap().0
}

/// A collector of the facts below `root`, of which nothing runs by itself.
pub fn collector(root: &Path, settings: &Settings) -> Arc<Collector> {
    let (clock, inputs) = (Clock::start(), IdentityInputs::default());
    Collector::new(root, clock, Counters::default(), settings, inputs, Arc::new(Unasked), None)
}
