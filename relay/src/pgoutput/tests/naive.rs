//! A second decoder, written from the documentation for being obvious: it eats a queue of bytes one by one,
//! copies everything, and gives up with `None`. It shares no code with the first.

use std::collections::VecDeque;

use super::model::{Model, ModelColumn, Value};

pub(super) fn decode(body: &[u8]) -> Option<Model> {
    let mut bytes: VecDeque<u8> = body.iter().copied().collect();
    let model = match bytes.pop_front()? as char {
        'B' => Model::Begin(number(&mut bytes, 8)?, signed(&mut bytes)?, short(&mut bytes)?),
        'C' => Model::Commit(
            bytes.pop_front()?,
            number(&mut bytes, 8)?,
            number(&mut bytes, 8)?,
            signed(&mut bytes)?,
        ),
        'O' => Model::Origin(number(&mut bytes, 8)?, text(&mut bytes)?),
        'R' => relation(&mut bytes)?,
        'Y' => Model::Type(short(&mut bytes)?, text(&mut bytes)?, text(&mut bytes)?),
        'I' => Model::Insert(short(&mut bytes)?, tuple(&mut bytes, "N")?),
        'U' => {
            let relation = short(&mut bytes)?;
            let old = if bytes.front() == Some(&b'N') { None } else { Some(tuple(&mut bytes, "KO")?) };
            Model::Update(relation, old, tuple(&mut bytes, "N")?)
        }
        'D' => Model::Delete(short(&mut bytes)?, tuple(&mut bytes, "KO")?),
        'T' => {
            let count = short(&mut bytes)?;
            let flags = bytes.pop_front()?;
            let mut relations = Vec::new();
            for _ in 0..count {
                relations.push(short(&mut bytes)?);
            }
            Model::Truncate(flags, relations)
        }
        'M' => Model::Logical(
            bytes.pop_front()? % 2 == 1,
            number(&mut bytes, 8)?,
            text(&mut bytes)?,
            counted(&mut bytes)?,
        ),
        _ => return None,
    };
    bytes.is_empty().then_some(model)
}

fn relation(bytes: &mut VecDeque<u8>) -> Option<Model> {
    let (id, namespace, name) = (short(bytes)?, text(bytes)?, text(bytes)?);
    let identity = bytes.pop_front()?;
    let mut columns = Vec::new();
    for _ in 0..number(bytes, 2)? {
        columns.push(ModelColumn {
            flags: bytes.pop_front()?,
            name: text(bytes)?,
            type_oid: short(bytes)?,
            type_modifier: short(bytes)? as i32,
        });
    }
    Some(Model::Relation(id, namespace, name, identity, columns))
}

fn tuple(bytes: &mut VecDeque<u8>, kinds: &str) -> Option<Vec<Value>> {
    if !kinds.contains(bytes.pop_front()? as char) {
        return None;
    }
    let mut values = Vec::new();
    for _ in 0..number(bytes, 2)? {
        values.push(match bytes.pop_front()? as char {
            'n' => Value::Null,
            'u' => Value::Unchanged,
            't' => Value::Text(counted(bytes)?),
            'b' => Value::Binary(counted(bytes)?),
            _ => return None,
        });
    }
    Some(values)
}

fn number(bytes: &mut VecDeque<u8>, length: usize) -> Option<u64> {
    let mut number = 0;
    for _ in 0..length {
        number = number << 8 | u64::from(bytes.pop_front()?);
    }
    Some(number)
}

fn short(bytes: &mut VecDeque<u8>) -> Option<u32> {
    number(bytes, 4).map(|number| number as u32)
}

fn signed(bytes: &mut VecDeque<u8>) -> Option<i64> {
    number(bytes, 8).map(|number| number as i64)
}

fn counted(bytes: &mut VecDeque<u8>) -> Option<Vec<u8>> {
    let length = number(bytes, 4)?;
    (0..length).map(|_| bytes.pop_front()).collect()
}

fn text(bytes: &mut VecDeque<u8>) -> Option<String> {
    let mut text = Vec::new();
    loop {
        match bytes.pop_front()? {
            0 => return String::from_utf8(text).ok(),
            byte => text.push(byte),
        }
    }
}
