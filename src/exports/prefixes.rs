//! A prefix as other programs keep it: one row a position, and in it the keys and values of all attentions one after the other, K0, V0, K1,
//! V1 and so on. Called by the folders of PEFT and AdapterHub; knows no files.

use anyhow::{Context, Result, bail};
use burn::tensor::TensorData;

use super::tensors::{self, Named};
use crate::engine::bag;
use crate::methods::prefix;
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::plan::{Member, Plan};

/// Our name of a site's keys or values.
const PARAMETER: &str = "P";

/// The first prefix of the stack, where it holds some.
pub fn among(plan: &Plan) -> Option<&Member> {
    plan.members.iter().find(|m| m.card.name == prefix::CARD.name)
}

/// Every attention of the network, first to last.
pub fn attentions(anatomy: &Anatomy) -> Vec<&Site> {
    anatomy.sites.iter().filter(|site| site.role == Role::Attn).collect()
}

/// Where the keys and values of these attentions leave their layers, in the order of a row.
fn sites<'a>(anatomy: &'a Anatomy, attentions: &[&Site]) -> Result<Vec<&'a Site>> {
    let both = attentions.iter().flat_map(|attention| [Role::K, Role::V].map(|role| (attention, role)));
    both.map(|(attention, role)| {
        anatomy.beside(attention, role).with_context(|| format!("`{}` has no `{}`", attention.path, role.word()))
    })
    .collect()
}

/// How wide a row is.
pub fn width(anatomy: &Anatomy, attentions: &[&Site]) -> Result<usize> {
    Ok(sites(anatomy, attentions)?.iter().map(|site| site.d_out).sum())
}

/// The rows `[l, width]` of `places`, attentions with the prefix that stands there, from the bag's values.
pub fn rows(anatomy: &Anatomy, places: &[(&Member, &Site)], values: &Named) -> Result<TensorData> {
    let (mut parts, mut l) = (Vec::new(), 0);
    for (member, attention) in places {
        for site in sites(anatomy, &[attention])? {
            let key = bag::key(member.index, member.card.name, &site.path, PARAMETER);
            let data = values.get(&key).with_context(|| format!("the run's adapter lacks `{key}`"))?; // [l, d]
            l = data.shape().as_slice().first().copied().unwrap_or(0);
            parts.push((tensors::values(&key, data)?, site.d_out));
        }
    }
    let all = (0..l).flat_map(|n| parts.iter().flat_map(move |(values, d)| &values[n * d..(n + 1) * d])).copied();
    let (all, width) = (all.collect::<Vec<f32>>(), parts.iter().map(|(_, d)| d).sum::<usize>());
    Ok(TensorData::new(all, [l, width]))
}

/// The bag's values of the stack's first entry from such rows, of the keys and values of `attentions`.
///
/// # Errors
/// When the rows have another width; `name` says what they are.
pub fn apart(name: &str, rows: &TensorData, anatomy: &Anatomy, attentions: &[&Site]) -> Result<Named> {
    let (values, wanted) = (tensors::values(name, rows)?, width(anatomy, attentions)?);
    let l = match rows.shape().as_slice() {
        &[l, found] if found == wanted => l,
        shape => bail!(
            "`{name}` has shape {shape:?}, but the keys and values of {} attentions of this network are {wanted} numbers a position",
            attentions.len()
        ),
    };
    let (mut all, mut from) = (Named::new(), 0);
    for site in sites(anatomy, attentions)? {
        let own = values.chunks(wanted).flat_map(|row| &row[from..from + site.d_out]).copied().collect::<Vec<f32>>();
        from += site.d_out;
        all.insert(bag::key(0, prefix::CARD.name, &site.path, PARAMETER), TensorData::new(own, [l, site.d_out]));
    }
    Ok(all)
}
