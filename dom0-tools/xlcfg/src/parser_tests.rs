use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> (Document, Problems, Source) {
    let source = Source::new("t.cfg", text);
    let mut problems = Problems::default();
    let document = parse(&source, &mut problems);
    (document, problems, source)
}

fn clean(text: &str) -> Document {
    let (document, problems, source) = parsed(text);
    assert!(problems.is_empty(), "{}", problems.render(&source));
    document
}

/// A value without places, for comparison.
fn plain(value: &Value) -> String {
    match value {
        Value::Atom(atom) if atom.is_quoted => format!("{:?}", atom.text),
        Value::Atom(atom) => atom.text.clone(),
        Value::List(values, _) => {
            let inner: Vec<String> = values.iter().map(plain).collect();
            format!("[{}]", inner.join(","))
        }
    }
}

#[test]
fn all_forms_of_values() {
    let document = clean(concat!(
        "# comment\n",
        "name=\"a\"; memory = 0x40 # behind\n",
        "disk = [ 'x,y', # in a list\n",
        "  [ 1, 'n' ],\n",
        "]\n",
        "empty = [ ]\n",
        "a.b_c += \"q\\\"\\x41\\101\"",
    ));
    let all: Vec<(String, String)> = document
        .settings
        .iter()
        .map(|s| (s.name.clone(), plain(&s.value)))
        .collect();
    let expected = [
        ("name", "\"a\""),
        ("memory", "0x40"),
        ("disk", "[\"x,y\",[1,\"n\"]]"),
        ("empty", "[]"),
        ("a.b_c", "\"q\\\"AA\""),
    ];
    let expected: Vec<(String, String)> = expected
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    assert_eq!(all, expected);
    assert_eq!(document.settings[4].operator, Operator::Add);
}

#[test]
fn each_mistake_is_reported_at_its_place_and_the_rest_is_read() {
    let cases = [
        ("name = foo\nx=1\n", "t.cfg:1:8"),
        ("name \"foo\"\nx=1\n", "t.cfg:1:6"),
        ("name = 'foo\nx=1\n", "t.cfg:1:8"),
        ("name =\nx=1\n", "t.cfg:1:7"),
        ("name = 'a' 'b'\nx=1\n", "t.cfg:1:12"),
        ("a = [ 1 2 ]\nx=1\n", "t.cfg:1:9"),
        ("a = -1\nx=1\n", "t.cfg:1:5"),
        ("'a' = 1\nx=1\n", "t.cfg:1:1"),
        ("a = \"\\q\"\nx=1\n", "t.cfg:1:6"),
    ];
    for (text, place) in cases {
        let (document, problems, source) = parsed(text);
        let rendered = problems.render(&source);
        assert_eq!(problems.errors(), 1, "{text:?}: {rendered}");
        assert!(rendered.starts_with(place), "{text:?}: {rendered}");
        assert!(rendered.contains("help:"), "{rendered}");
        assert!(
            document.settings.iter().any(|s| s.name == "x"),
            "{text:?}: the next line is lost"
        );
    }
}

#[test]
fn an_open_list_is_reported_where_it_begins() {
    let (_, problems, source) = parsed("a = [ 1,\n2");
    assert!(problems.render(&source).starts_with("t.cfg:1:5"));
}

#[test]
fn deep_lists_end() {
    let (_, problems, _) = parsed(&format!("a = {}", "[".repeat(100_000)));
    assert!(problems.has_errors());
}

fn value() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        "[0-9]{1,4}",
        "0x[0-9a-f]{1,4}",
        "\"[^\"\\\\\n]{0,8}\"",
        "'[^'\\\\\n]{0,8}'",
    ];
    atom.prop_recursive(3, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(|values| format!("[ {} ]", values.join(", ")))
    })
}

proptest! {
    #[test]
    fn generated_documents_are_read_whole(
        settings in prop::collection::vec(("[a-z][a-z0-9_]{0,8}", value()), 0..8),
        separator in prop_oneof!["\n", ";", " # c\n", "\n\n"],
    ) {
        let lines: Vec<String> = settings.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        let (document, problems, source) = parsed(&lines.join(&separator));
        prop_assert!(problems.is_empty(), "{}", problems.render(&source));
        prop_assert_eq!(document.settings.len(), settings.len());
        for (setting, (name, value)) in document.settings.iter().zip(&settings) {
            prop_assert_eq!(&setting.name, name);
            // The span is the text of the value.
            prop_assert_eq!(source.slice(setting.value.span()), value);
        }
    }

    #[test]
    fn any_text_is_survived_and_problems_lie_inside(text in "[a-z=+;,\\[\\]'\"\\\\\n# 0-9ä-]{0,80}") {
        let (_, problems, source) = parsed(&text);
        for problem in problems.iter() {
            prop_assert!(problem.span.start <= problem.span.end);
            prop_assert!(problem.span.end <= source.text().len());
            prop_assert!(!problem.render(&source).is_empty());
        }
    }
}
