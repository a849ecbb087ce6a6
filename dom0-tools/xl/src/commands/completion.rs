//! `completion`: scripts that make shells complete commands and domains.

use crate::context::{Context, Failure, Result};
use crate::output::say;
use crate::table::COMMANDS;

/// `completion bash|zsh|fish`.
pub(crate) fn completion(_: &mut Context, words: &[String]) -> Result {
    let args = super::parse!(words, "completion", "", &[], (0, 1));
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let takes_domain: Vec<&str> = COMMANDS
        .iter()
        .filter(|command| command.usage.contains("Domain"))
        .map(|command| command.name)
        .collect();
    let (names, domains) = (names.join(" "), takes_domain.join("|"));
    match args.operands.first().map_or("bash", String::as_str) {
        "bash" => say!("{}", bash(&names, &domains)),
        "zsh" => say!(
            "autoload -U +X bashcompinit && bashcompinit\n{}",
            bash(&names, &domains)
        ),
        "fish" => {
            say!("complete -c xl -f -n __fish_use_subcommand -a '{names}'");
            let domains = domains.replace('|', " ");
            say!(
                "complete -c xl -f -n '__fish_seen_subcommand_from {domains}' -a \"(xl list 2>/dev/null | awk 'NR > 1 {{print \\$1}}')\""
            );
        }
        other => {
            return Err(Failure::new(format!(
                "no completion for '{other}'\n  help: bash, zsh or fish"
            )));
        }
    }
    Ok(())
}

fn bash(names: &str, domains: &str) -> String {
    format!(
        r#"_xl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{names}" -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
    {domains})
        COMPREPLY=($(compgen -W "$(xl list 2>/dev/null | awk 'NR > 1 {{print $1}}')" -- "$word")) ;;
    create | config-update)
        COMPREPLY=($(compgen -f -- "$word")) ;;
    help)
        COMPREPLY=($(compgen -W "{names}" -- "$word")) ;;
    esac
}}
complete -o default -F _xl xl"#
    )
}
