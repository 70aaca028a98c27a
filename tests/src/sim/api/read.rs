//! get and list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    encode::{self, Include, ListMeta},
    handler::{Answer, Request, reply_read},
    negotiate::Output,
    resource::Target,
    selectors::Selectors,
    status::{self, Failure},
};
use crate::sim::store::{Object, StoreError};

pub(super) async fn get(request: &Request, target: &Target, output: Output) -> Answer {
    let name = &target.path.name;
    let object = request
        .app
        .store
        .get(&target.key(name))
        .await
        .map_err(|error| status::store(error, &target.path, name))?;
    let include = Include::parse(request.query.get("includeObject"));
    let bytes = encode::object(&object, target.meta(), output, include)?;
    Ok(reply_read(request, output, bytes))
}

pub(super) async fn list(request: &Request, target: &Target, output: Output) -> Answer {
    let selectors = Selectors::parse(&request.query)?;
    selectors.check(target, request.app.query_minor)?;
    let (objects, revision) = request
        .app
        .store
        .list(&target.scope())
        .await
        .map_err(|error| status::store(error, &target.path, ""))?;
    let page = Page::parse(request.query.get("continue").unwrap_or_default())?;
    if let Some(page) = &page {
        still_there(request, target, page.revision).await?;
    }
    let after = |object: &Object| page.as_ref().is_none_or(|page| place(object) > page.last());
    let mut items: Vec<Object> = objects
        .into_iter()
        .filter(|o| after(o) && selectors.matches(o))
        .collect();
    let revision = page.map_or(revision, |page| page.revision);
    let mut meta = ListMeta {
        resource_version: revision.to_string(),
        ..ListMeta::default()
    };
    let limit = request.query.number("limit").unwrap_or(0) as usize;
    if limit > 0 && items.len() > limit {
        meta.remaining_item_count = Some(items.len() - limit);
        items.truncate(limit);
        meta.continue_token = items
            .last()
            .map(|last| Page::after(last, revision))
            .unwrap_or_default();
    }
    let include = Include::parse(request.query.get("includeObject"));
    let bytes = encode::list(
        &items,
        target.meta(),
        target.resource.custom,
        &meta,
        output,
        include,
    )?;
    Ok(reply_read(request, output, bytes))
}

/// Where a list goes on. The pages are no snapshot: later ones show later changes.
struct Page {
    revision: u64,
    namespace: String,
    name: String,
}

impl Page {
    fn parse(token: &str) -> Result<Option<Self>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        let invalid =
            || status::bad_request("continue key is not valid: encoded token is malformed");
        let bytes = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|_| invalid())?;
        let (revision, namespace, name) = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        Ok(Some(Self {
            revision,
            namespace,
            name,
        }))
    }

    fn after(object: &Object, revision: u64) -> String {
        let (namespace, name) = place(object);
        URL_SAFE_NO_PAD.encode(serde_json::json!([revision, namespace, name]).to_string())
    }

    fn last(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

fn place(object: &Object) -> (&str, &str) {
    let metadata = &object["metadata"];
    (
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default(),
    )
}

async fn still_there(request: &Request, target: &Target, revision: u64) -> Result<(), Failure> {
    let mut history = request
        .app
        .store
        .watch(target.scope(), revision)
        .await
        .map_err(|e| status::store(e, &target.path, ""))?;
    match history.now() {
        Err(StoreError::Compacted(_)) => Err(status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        )
        .into()),
        _ => Ok(()),
    }
}
