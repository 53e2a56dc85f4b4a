//! Servers, and how their command lines name the application that they run. A server's own name says little: all of a
//! company's applications would share it.

use super::command_line::{Program, file_name};

/// A server's command, and where its command line names the application.
struct Server {
    /// The script, or the module after `-m`.
    commands: &'static [&'static str],
    application: Place,
}

/// Where a command line names the application.
enum Place {
    /// The first argument, apart from options, that can be one.
    Argument,
    /// The value of one of these options.
    Option(&'static [&'static str]),
}

const SERVERS: [Server; 13] = [
    Server { commands: &["gunicorn"], application: Place::Argument },
    Server { commands: &["uvicorn"], application: Place::Argument },
    Server { commands: &["hypercorn"], application: Place::Argument },
    Server { commands: &["granian"], application: Place::Argument },
    Server { commands: &["daphne"], application: Place::Argument },
    Server { commands: &["waitress-serve", "waitress"], application: Place::Argument },
    Server { commands: &["dramatiq", "dramatiq-gevent"], application: Place::Argument },
    Server { commands: &["arq"], application: Place::Argument },
    Server { commands: &["huey_consumer", "huey.bin.huey_consumer"], application: Place::Argument },
    Server { commands: &["celery"], application: Place::Option(&["--app", "-A"]) },
    Server { commands: &["flask"], application: Place::Option(&["--app", "-A"]) },
    Server { commands: &["quart"], application: Place::Option(&["--app", "-A"]) },
    Server {
        commands: &["uwsgi"],
        application: Place::Option(&["--module", "--wsgi", "--wsgi-file", "--file", "--mount"]),
    },
];

/// Common options of these servers that have no value, so that what follows is an argument. Of any other option it is
/// taken for the value.
const FLAGS: [&str; 8] =
    ["--call", "--daemon", "--debug", "--factory", "--preload", "--proxy-headers", "--reload", "-D"];

/// The application that a server's command line names: its top-level package, or the name of its file. `None` if the
/// program is no server that is known here, or if its command line names none.
pub(super) fn application(program: Program<'_>) -> Option<String> {
    let name = program.name()?;
    let server = SERVERS.iter().find(|server| server.commands.contains(&name.as_str()))?;
    match server.application {
        Place::Argument => argument(program.arguments),
        Place::Option(options) => option(program.arguments, options).and_then(named),
    }
}

/// An argument that names an application. `module:object` is recognised even behind an option that may have a value.
fn argument(words: &[String]) -> Option<String> {
    let mut values = Vec::new();
    let mut arguments = Vec::new();
    let mut may_be_value = false;
    for word in words {
        let is_option = word.starts_with('-') && word != "-";
        if !is_option {
            (if may_be_value { &mut values } else { &mut arguments }).push(word.as_str());
        }
        may_be_value = is_option && takes_value(word);
    }
    // A configuration of Gunicorn begins with python:, too.
    let has_object = |word: &&&str| word.contains(':') && !word.starts_with("python:");
    let objects = arguments.iter().filter(has_object).chain(values.iter().filter(has_object));
    objects.chain(&arguments).find_map(|word| named(word))
}

/// Whether an option may have its value in the next word.
fn takes_value(option: &str) -> bool {
    let is_long = option.starts_with("--");
    let has_value = if is_long { option.contains('=') } else { option.len() > 2 };
    !has_value && !FLAGS.contains(&option) && !option.starts_with("--no-")
}

/// The value of the first of these options that has one: in the next word, after `=`, or after the letter.
fn option<'a>(words: &'a [String], options: &[&str]) -> Option<&'a str> {
    words.iter().enumerate().find_map(|(at, word)| {
        options.iter().find_map(|option| match word.strip_prefix(option)? {
            "" => words.get(at + 1).map(String::as_str),
            rest if option.starts_with("--") => rest.strip_prefix('='),
            rest => Some(rest),
        })
    })
}

/// The name of an application that is given as `package.module`, `package.module:object` or `folder/file.py:object`.
fn named(reference: &str) -> Option<String> {
    // uWSGI's --mount has a path before it, and Hypercorn knows a kind of application.
    let reference = match reference.split_once('=') {
        Some((mount, reference)) if mount.starts_with('/') => reference,
        _ => reference,
    };
    let reference = ["asgi:", "wsgi:"]
        .iter()
        .find_map(|kind| {
            let rest = reference.strip_prefix(kind)?;
            rest.contains(':').then_some(rest)
        })
        .unwrap_or(reference);
    let (module, object) = reference.split_once(':').unwrap_or((reference, "application"));
    let is_identifier = |word: &str| {
        word.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && !word.is_empty()
    };
    // A factory may have arguments.
    let object = object.split('(').next().unwrap_or_default();
    if !object.split('.').all(is_identifier) {
        return None;
    }
    if module.contains('/') || module.strip_suffix(".py").is_some() {
        return file_name(module);
    }
    module.split('.').all(is_identifier).then(|| module.split('.').next().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The application that a command names, of a server in `/usr/bin`.
    fn application_of(command: &str) -> Option<String> {
        let mut words = vec!["python".to_owned()];
        words.extend(command.split(' ').map(str::to_owned));
        if !words[1].starts_with('-') {
            words[1] = format!("/usr/bin/{}", words[1]);
        }
        application(Program::of(&words).unwrap())
    }

    #[test]
    fn a_servers_command_line_names_the_application() {
        for command in [
            "gunicorn shop:application",
            "gunicorn --workers 4 shop.wsgi:application",
            "gunicorn -w4 --bind=0.0.0.0:8000 shop.wsgi",
            "gunicorn --bind 127.0.0.1:8000 -k uvicorn_worker.UvicornWorker shop.main:app",
            "gunicorn --bind unix:/run/shop.sock --preload shop",
            "gunicorn -c python:runtime_metrics.gunicorn shop:application",
            "gunicorn shop:application -c python:runtime_metrics.gunicorn",
            "gunicorn -c python:runtime_metrics.gunicorn --spew shop:application",
            "gunicorn -c conf.py --reload shop:create_app('production')",
            "-m gunicorn shop:application",
            "uvicorn --workers 2 shop.main:app",
            "uvicorn --reload --factory shop:create_app",
            "uvicorn --access-log --header Server:nginx shop:app",
            "-m uvicorn shop:app --port 80",
            "hypercorn --bind 0.0.0.0:80 --workers 2 shop",
            "hypercorn asgi:shop.main:app",
            "hypercorn /srv/shop.py:application",
            "granian --interface asgi shop.main:app",
            "daphne -b 0.0.0.0 -p 80 --access-log - shop.asgi:application",
            "waitress-serve --port=8080 --call shop:create_app",
            "-m waitress --listen *:8080 shop:app",
            "dramatiq shop.tasks other.tasks --processes 4",
            "dramatiq --processes 4 shop:broker",
            "arq shop.worker.WorkerSettings --burst",
            "huey_consumer.py shop.tasks.huey -w 4",
            "celery -A shop worker",
            "celery -Ashop.celery worker --concurrency 4",
            "celery --app=shop.celery:app beat",
            "celery worker --app shop",
            "-m celery --broker redis://localhost -A shop worker",
            "flask --app shop run --port 80",
            "flask -A shop:create_app('dev') run",
            "-m flask --app=./shop.py run",
            "quart --app shop.main:app run",
            "uwsgi --module=shop.wsgi:application",
            "uwsgi --wsgi-file=/srv/shop.py",
            "uwsgi --mount=/shop=shop:application",
        ] {
            assert_eq!(application_of(command).as_deref(), Some("shop"), "{command}");
        }
    }

    #[test]
    fn a_command_line_that_names_no_application_gives_none() {
        for command in [
            "gunicorn",
            "gunicorn --config gunicorn.conf.py --bind 127.0.0.1:8000 --workers 4",
            "gunicorn -c python:shop.settings -k gevent",
            "gunicorn --paste production.ini",
            "gunicorn --bind localhost:8000 --env A=b:c",
            "uvicorn --fd 3",
            "celery worker",
            "celery worker -A",
            "flask run",
            "rq worker high default",
            "manage.py runserver shop:app",
            "uwsgi --http=:8080",
        ] {
            assert_eq!(application_of(command), None, "{command}");
        }
    }
}
