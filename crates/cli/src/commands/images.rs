//! `longshore images`.

use anyhow::Result;
use longshore_engine::{Engine, StoredImage};
use longshore_oci::{Platform, Reference};
use serde_json::{Value, json};

use crate::args::{Global, ImagesArgs};
use crate::exit::Exit;
use crate::table::{out, print_rows};
use crate::{config, spec, units};

pub(crate) fn run(global: &Global, args: &ImagesArgs) -> Result<Exit> {
    let engine = config::engine(global)?;
    let wanted = args
        .name
        .as_deref()
        .map(spec::parse_reference)
        .transpose()?;
    let mut rows = Vec::new();
    for image in engine
        .images()?
        .iter()
        .filter(|image| is_wanted(image, wanted.as_ref()))
    {
        rows.push(row(&engine, image, args.no_trunc));
    }
    rows.sort_by_key(|row| {
        std::cmp::Reverse(row["CreatedAt"].as_str().unwrap_or_default().to_owned())
    });
    if args.quiet {
        rows.iter()
            .for_each(|row| out(row["ID"].as_str().unwrap_or_default()));
        return Ok(Exit::Done);
    }
    let mut columns = vec![
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    if args.digests {
        columns.insert(2, ("DIGEST", "Digest"));
    }
    print_rows(&rows, &columns, args.format.as_deref())?;
    Ok(Exit::Done)
}

fn is_wanted(image: &StoredImage, wanted: Option<&Reference>) -> bool {
    let Some(wanted) = wanted else { return true };
    image.reference.as_ref().is_some_and(|reference| {
        reference.name() == wanted.name()
            && (wanted.tag().is_none() || wanted.tag() == reference.tag())
    })
}

fn row(engine: &Engine, image: &StoredImage, whole_ids: bool) -> Value {
    let none = || "<none>".to_owned();
    let read = engine.read_image(image, &Platform::host());
    let (id, size, created) = match &read {
        Ok(found) => (
            found.id(),
            found.size_bytes(),
            found.config.created.clone().unwrap_or_default(),
        ),
        // An index of other platforms is shown by its own digest.
        Err(_) => (
            image.descriptor.digest,
            image.descriptor.size,
            String::new(),
        ),
    };
    json!({
        "Repository": image.reference.as_ref().map_or_else(none, Reference::familiar_name),
        "Tag": image.reference.as_ref().and_then(|name| name.tag().map(str::to_owned)).unwrap_or_else(none),
        "Digest": image.descriptor.digest.to_string(),
        "ID": if whole_ids { id.to_string() } else { id.short() },
        "CreatedAt": created,
        "CreatedSince": units::show_age(&created, jiff::Timestamp::now()),
        "Size": units::show_bytes(size),
    })
}
