//! The command line, without a store.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_holds() {
    Cli::command().debug_assert();
}

#[test]
fn flags_go_before_or_after_the_verb() {
    for line in [
        "thaw -n moby -o json explain web",
        "thaw explain web -n moby -o json",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(
            (cli.global.namespace.as_str(), cli.global.output),
            ("moby", Format::Json)
        );
    }
}

#[test]
fn wrong_usage_is_told_from_help() {
    assert_eq!(
        parse("thaw --store http://x ls").unwrap_err().exit_code(),
        i32::from(failure::USAGE)
    );
    assert_eq!(
        parse("thaw rm").unwrap_err().exit_code(),
        i32::from(failure::USAGE)
    );
    assert!(!parse("thaw --help").unwrap_err().use_stderr());
}

#[test]
fn columns_line_up() {
    let rows = [
        vec!["A".to_owned(), "B".to_owned()],
        vec!["long".to_owned(), "é".to_owned()],
    ];
    let mut out = Vec::new();
    output::columns(&rows, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "A     B\nlong  é\n");
    assert_eq!(output::plain("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
}

/// A record is told in words, with its advice; one that isn't there ends in its own exit code.
#[test]
fn explain_tells_a_record() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("default/web");
    std::fs::create_dir_all(&directory).unwrap();
    let record = r#"{"result":"cold","reason":"no_snapshot","detail":"there is none","id":"web","namespace":"default",
        "created":"2026-01-01T00:00:00Z","stages":[{"name":"lookup","ms":1.25}],"bytes":{"fetched":0,"pages":0,"rootfs":0}}"#;
    std::fs::write(directory.join("outcome.json"), record).unwrap();
    let config = state.path().join("config.toml");
    std::fs::write(&config, format!("state = {:?}", state.path())).unwrap();
    let run = |id: &str, format: &str| {
        let config = config.display().to_string();
        let arguments = [
            "thaw", "--config", &config, "-n", "default", "-o", format, "explain", id,
        ];
        format!("{:?}", run(arguments.map(OsString::from)))
    };
    let code = |code: u8| format!("{:?}", ExitCode::from(code));
    assert_eq!(run("web", "table"), code(0));
    assert_eq!(run("w", "json"), code(0));
    assert_eq!(run("other", "table"), code(failure::NOT_FOUND));
    assert!(advice::of("no_snapshot").is_some() && advice::of("restored").is_none());
}
