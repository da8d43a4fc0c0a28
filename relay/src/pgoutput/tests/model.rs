//! Messages as owned values: made at random, encoded, and compared.

use proptest::prelude::*;

use crate::pgoutput::{Column, Message, RelationColumn, Tuple};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelColumn {
    pub flags: u8,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Model {
    Begin(u64, i64, u32),
    Commit(u8, u64, u64, i64),
    Origin(u64, String),
    Relation(u32, String, String, u8, Vec<ModelColumn>),
    Type(u32, String, String),
    Insert(u32, Vec<Value>),
    /// The old row with the byte that says how much of it is there. Only the naive decoder and the
    /// encoder know the byte; it is `K` or `O`.
    Update(u32, Option<Vec<Value>>, Vec<Value>),
    Delete(u32, Vec<Value>),
    Truncate(u8, Vec<u32>),
    Logical(bool, u64, String, Vec<u8>),
}

impl From<Message<'_>> for Model {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Begin { final_lsn, commit_time, xid } => Model::Begin(final_lsn.0, commit_time.0, xid),
            Message::Commit { flags, commit_lsn, end_lsn, commit_time } => {
                Model::Commit(flags, commit_lsn.0, end_lsn.0, commit_time.0)
            }
            Message::Origin { commit_lsn, name } => Model::Origin(commit_lsn.0, name.to_owned()),
            Message::Relation(relation) => {
                let columns = relation.columns().map(ModelColumn::from).collect::<Vec<_>>();
                assert_eq!(columns.len(), relation.len());
                let (namespace, name) = (relation.namespace.to_owned(), relation.name.to_owned());
                Model::Relation(relation.id, namespace, name, relation.replica_identity, columns)
            }
            Message::Type { id, namespace, name } => Model::Type(id, namespace.to_owned(), name.to_owned()),
            Message::Insert { relation_id, tuple } => Model::Insert(relation_id, values(tuple)),
            Message::Update { relation_id, old, new } => {
                Model::Update(relation_id, old.map(values), values(new))
            }
            Message::Delete { relation_id, old } => Model::Delete(relation_id, values(old)),
            Message::Truncate(truncate) => Model::Truncate(truncate.flags, truncate.relation_ids().collect()),
            Message::Logical(message) => Model::Logical(
                message.transactional,
                message.lsn.0,
                message.prefix.to_owned(),
                message.content.to_vec(),
            ),
        }
    }
}

impl From<RelationColumn<'_>> for ModelColumn {
    fn from(column: RelationColumn<'_>) -> Self {
        let RelationColumn { flags, name, type_oid, type_modifier } = column;
        assert_eq!(column.is_key(), flags % 2 == 1);
        ModelColumn { flags, name: name.to_owned(), type_oid, type_modifier }
    }
}

fn values(tuple: Tuple<'_>) -> Vec<Value> {
    let values = tuple.iter().map(|column| match column {
        Column::Null => Value::Null,
        Column::Unchanged => Value::Unchanged,
        Column::Text(text) => Value::Text(text.to_vec()),
        Column::Binary(binary) => Value::Binary(binary.to_vec()),
    });
    let values: Vec<_> = values.collect();
    assert_eq!(values.len(), tuple.len());
    values
}

/// Puts together a message from bytes and lengths.
struct Out(Vec<u8>);

impl Out {
    fn put(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn text(self, text: &str) -> Self {
        self.put(text).put([0])
    }

    fn counted(self, bytes: &[u8]) -> Self {
        self.put((bytes.len() as u32).to_be_bytes()).put(bytes)
    }

    fn tuple(self, kind: u8, values: &[Value]) -> Self {
        let out = self.put([kind]).put((values.len() as u16).to_be_bytes());
        values.iter().fold(out, |out, value| match value {
            Value::Null => out.put([b'n']),
            Value::Unchanged => out.put([b'u']),
            Value::Text(text) => out.put([b't']).counted(text),
            Value::Binary(binary) => out.put([b'b']).counted(binary),
        })
    }
}

impl Model {
    /// The message as the server would send it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let out = Out(Vec::new());
        let out = match self {
            Model::Begin(lsn, time, xid) => {
                out.put(b"B").put(lsn.to_be_bytes()).put(time.to_be_bytes()).put(xid.to_be_bytes())
            }
            Model::Commit(flags, commit, end, time) => out
                .put([b'C', *flags])
                .put(commit.to_be_bytes())
                .put(end.to_be_bytes())
                .put(time.to_be_bytes()),
            Model::Origin(lsn, name) => out.put(b"O").put(lsn.to_be_bytes()).text(name),
            Model::Relation(id, namespace, name, identity, columns) => {
                let out = out.put(b"R").put(id.to_be_bytes()).text(namespace).text(name).put([*identity]);
                columns.iter().fold(out.put((columns.len() as u16).to_be_bytes()), |out, column| {
                    out.put([column.flags])
                        .text(&column.name)
                        .put(column.type_oid.to_be_bytes())
                        .put(column.type_modifier.to_be_bytes())
                })
            }
            Model::Type(id, namespace, name) => {
                out.put(b"Y").put(id.to_be_bytes()).text(namespace).text(name)
            }
            Model::Insert(relation, new) => out.put(b"I").put(relation.to_be_bytes()).tuple(b'N', new),
            Model::Update(relation, old, new) => {
                let out = out.put(b"U").put(relation.to_be_bytes());
                // The two kinds of old row look the same from here on.
                let kind = if relation % 2 == 0 { b'K' } else { b'O' };
                old.iter().fold(out, |out, old| out.tuple(kind, old)).tuple(b'N', new)
            }
            Model::Delete(relation, old) => {
                let kind = if relation % 2 == 0 { b'K' } else { b'O' };
                out.put(b"D").put(relation.to_be_bytes()).tuple(kind, old)
            }
            Model::Truncate(flags, relations) => {
                let out = out.put(b"T").put((relations.len() as u32).to_be_bytes()).put([*flags]);
                relations.iter().fold(out, |out, relation| out.put(relation.to_be_bytes()))
            }
            Model::Logical(transactional, lsn, prefix, content) => {
                out.put([b'M', u8::from(*transactional)]).put(lsn.to_be_bytes()).text(prefix).counted(content)
            }
        };
        out.0
    }
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn tuple() -> impl Strategy<Value = Vec<Value>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let value = prop_oneof![
        1 => Just(Value::Null),
        1 => Just(Value::Unchanged),
        3 => bytes().prop_map(Value::Text),
        1 => bytes().prop_map(Value::Binary),
    ];
    prop::collection::vec(value, 0..9)
}

/// Any message at all.
pub(super) fn any_model() -> impl Strategy<Value = Model> {
    let column = (any::<u8>(), name(), any::<u32>(), any::<i32>()).prop_map(
        |(flags, name, type_oid, type_modifier)| ModelColumn { flags, name, type_oid, type_modifier },
    );
    let relation = (any::<u32>(), name(), name(), any::<u8>(), prop::collection::vec(column, 0..9));
    let content = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(lsn, time, xid)| Model::Begin(lsn, time, xid)),
        any::<(u8, u64, u64, i64)>()
            .prop_map(|(flags, commit, end, time)| Model::Commit(flags, commit, end, time)),
        (any::<u64>(), name()).prop_map(|(lsn, name)| Model::Origin(lsn, name)),
        relation.prop_map(|(id, namespace, name, identity, columns)| Model::Relation(
            id, namespace, name, identity, columns
        )),
        (any::<u32>(), name(), name()).prop_map(|(id, namespace, name)| Model::Type(id, namespace, name)),
        (any::<u32>(), tuple()).prop_map(|(relation, new)| Model::Insert(relation, new)),
        (any::<u32>(), prop::option::of(tuple()), tuple())
            .prop_map(|(relation, old, new)| Model::Update(relation, old, new)),
        (any::<u32>(), tuple()).prop_map(|(relation, old)| Model::Delete(relation, old)),
        (any::<u8>(), prop::collection::vec(any::<u32>(), 0..5))
            .prop_map(|(flags, relations)| Model::Truncate(flags, relations)),
        (any::<bool>(), any::<u64>(), name(), content).prop_map(|(transactional, lsn, prefix, content)| {
            Model::Logical(transactional, lsn, prefix, content)
        }),
    ]
}
