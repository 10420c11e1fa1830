//! The part of Python's regular expressions that PEFT's configurations use to name modules: letters, `.`, classes, groups,
//! alternatives and repetition, matched against a whole name. What is left out is refused by name. Called by `targets`.

/// One alternative after the other; each is a sequence.
type Choice = Vec<Vec<Item>>;

#[derive(Debug)]
struct Item {
    node: Node,
    least: usize,
    most: usize,
}

#[derive(Debug)]
enum Node {
    Any,
    /// Ranges of signs, and whether they are those that do not match.
    One(Vec<(char, char)>, bool),
    Group(Choice),
    Start,
    End,
}

/// A regular expression.
#[derive(Debug)]
pub struct Pattern(Choice);

/// Steps after which a match is given up: names are short, and an expression that needs more is a trap.
const STEPS: usize = 200_000;

impl Pattern {
    /// Reads `text`.
    ///
    /// # Errors
    /// In words, when it is no expression, or has a part that is not known here.
    pub fn of(text: &str) -> Result<Pattern, String> {
        let signs: Vec<char> = text.chars().collect();
        let mut at = 0;
        let choice = choice(&signs, &mut at).map_err(|words| format!("the expression `{text}` {words}"))?;
        match at == signs.len() {
            true => Ok(Pattern(choice)),
            false => Err(format!("the expression `{text}` closes a group that was not opened")),
        }
    }

    /// Whether it matches the whole of `name`.
    pub fn is(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let mut left = STEPS;
        self.0.iter().any(|sequence| run(sequence, &name, 0, &mut left, &mut |end| end == name.len()))
    }
}

fn choice(signs: &[char], at: &mut usize) -> Result<Choice, String> {
    let mut all = vec![vec![]];
    while let Some(sign) = signs.get(*at) {
        match sign {
            ')' => break,
            '|' => {
                *at += 1;
                all.push(vec![]);
            }
            _ => {
                let node = node(signs, at)?;
                let (least, most) = times(signs, at)?;
                if let Some(last) = all.last_mut() {
                    last.push(Item { node, least, most });
                }
            }
        }
    }
    Ok(all)
}

fn node(signs: &[char], at: &mut usize) -> Result<Node, String> {
    let sign = signs[*at];
    *at += 1;
    let one = |sign| Node::One(vec![(sign, sign)], false);
    Ok(match sign {
        '.' => Node::Any,
        '^' => Node::Start,
        '$' => Node::End,
        '(' => {
            if signs.get(*at) == Some(&'?') {
                match signs.get(*at + 1..).unwrap_or_default() {
                    [':', ..] => *at += 2,
                    ['P', '<', name @ ..] => *at += 4 + name.iter().position(|c| *c == '>').ok_or("names a group without end")?,
                    _ => return Err("looks ahead or behind, which is not known here".to_owned()),
                }
            }
            let inner = choice(signs, at)?;
            if signs.get(*at) != Some(&')') {
                return Err("has a group without end".to_owned());
            }
            *at += 1;
            Node::Group(inner)
        }
        '[' => class(signs, at)?,
        '\\' => {
            let (ranges, not) = escape(signs, at)?;
            Node::One(ranges, not)
        }
        '*' | '+' | '?' | '{' => return Err(format!("repeats nothing with `{sign}`")),
        sign => one(sign),
    })
}

/// What stands behind a backslash.
fn escape(signs: &[char], at: &mut usize) -> Result<(Vec<(char, char)>, bool), String> {
    let sign = *signs.get(*at).ok_or("ends with a backslash")?;
    *at += 1;
    let ranges = match sign.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        'w' => vec![('0', '9'), ('a', 'z'), ('A', 'Z'), ('_', '_')],
        's' => vec![(' ', ' '), ('\t', '\r')],
        _ if sign.is_ascii_alphanumeric() => return Err(format!("holds `\\{sign}`, which is not known here")),
        _ => return Ok((vec![(sign, sign)], false)),
    };
    Ok((ranges, sign.is_ascii_uppercase()))
}

fn class(signs: &[char], at: &mut usize) -> Result<Node, String> {
    let not = signs.get(*at) == Some(&'^');
    *at += usize::from(not);
    let (mut ranges, first) = (vec![], *at);
    loop {
        let sign = *signs.get(*at).ok_or("has a class without end")?;
        *at += 1;
        match sign {
            ']' if *at > first + 1 => return Ok(Node::One(ranges, not)),
            '\\' => {
                let (more, not) = escape(signs, at)?;
                if not {
                    return Err("takes a class out of a class, which is not known here".to_owned());
                }
                ranges.extend(more);
            }
            from => match (signs.get(*at), signs.get(*at + 1)) {
                (Some('-'), Some(to)) if *to != ']' => {
                    ranges.push((from, *to));
                    *at += 2;
                }
                _ => ranges.push((from, from)),
            },
        }
    }
}

/// How often what was just read may stand there.
fn times(signs: &[char], at: &mut usize) -> Result<(usize, usize), String> {
    let range = match signs.get(*at) {
        Some('*') => (0, usize::MAX),
        Some('+') => (1, usize::MAX),
        Some('?') => (0, 1),
        Some('{') => {
            let end = signs[*at..].iter().position(|c| *c == '}').ok_or("has a `{` without end")?;
            let inner: String = signs[*at + 1..*at + end].iter().collect();
            *at += end;
            let whole = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("repeats `{{{inner}}}` times"));
            match inner.split_once(',') {
                None => (whole(&inner)?, whole(&inner)?),
                Some((from, "")) => (whole(from)?, usize::MAX),
                Some((from, to)) => (whole(from)?, whole(to)?),
            }
        }
        _ => return Ok((1, 1)),
    };
    *at += 1;
    match signs.get(*at) {
        Some('?') => *at += 1, // as few as possible: for the whole of a name it makes no difference
        Some('+' | '*') => return Err("repeats a repetition".to_owned()),
        _ => {}
    }
    Ok(range)
}

/// Whether `items` match from `at` on, and what follows agrees with where they end.
fn run(items: &[Item], name: &[char], at: usize, left: &mut usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    match items.split_first() {
        None => then(at),
        Some((item, rest)) => repeat(item, 0, rest, name, at, left, then),
    }
}

fn repeat(
    item: &Item,
    done: usize,
    rest: &[Item],
    name: &[char],
    at: usize,
    left: &mut usize,
    then: &mut dyn FnMut(usize) -> bool,
) -> bool {
    if *left == 0 {
        return false;
    }
    *left -= 1;
    if done >= item.least && run(rest, name, at, left, then) {
        return true;
    }
    if done >= item.most {
        return false;
    }
    let sign = name.get(at);
    let on = match &item.node {
        Node::Start => (at == 0).then_some(at),
        Node::End => (at == name.len()).then_some(at),
        Node::Any => sign.map(|_| at + 1),
        Node::One(ranges, not) => {
            sign.filter(|s| ranges.iter().any(|(from, to)| (from..=to).contains(s)) != *not).map(|_| at + 1)
        }
        Node::Group(choice) => {
            // `left` is lent to the inner sequence and to what follows it in turn.
            let mut budget = *left;
            let found = choice.iter().any(|sequence| {
                let mut inner = budget;
                let found = run(sequence, name, at, &mut inner, &mut |end| {
                    // A group that matched nothing is not tried again.
                    (end > at || done < item.least) && repeat(item, done + 1, rest, name, end, &mut budget, then)
                });
                budget = budget.min(inner);
                found
            });
            *left = budget;
            return found;
        }
    };
    on.is_some_and(|next| repeat(item, done + 1, rest, name, next, left, then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_whole_names_as_python_does() {
        let is = |pattern: &str, name: &str| Pattern::of(pattern).map(|p| p.is(name));
        let name = "vit.encoder.layer.10.attention.attention.query";
        for (pattern, wanted) in [
            (r".*\.(query|value)", true),
            (r".*\.(key|value)", false),
            (r"query", false),
            (r"vit\.encoder\.layer\.\d+\.attention\.attention\.query", true),
            (r"vit\.encoder\.layer\.\d\.attention\.attention\.query", false),
            (r"(?:.*?(?:attention|mlp).*?(?:query|fc1)).*?", true),
            (r"^.*layer\.(1[0-2]|[3-5])\..*query$", true),
            (r"[^x]+", true),
            (r".*layer\.1{2}\..*", false),
            (r".*(attention\.){2,}query", true),
            (r"(a*)*b", false),
        ] {
            assert_eq!(is(pattern, name), Ok(wanted), "{pattern}");
        }
        for bad in [r"(?!vit).*", r"(", r")", r"a\b", "*a"] {
            assert!(is(bad, name).is_err(), "{bad}");
        }
    }
}
