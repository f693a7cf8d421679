//! Protobuf on the wire: fields are found and replaced in place, everything else stays byte for byte.
//!
//! Stricter than the protobuf specification in two points, both because the input may be hostile. A field that the
//! schema calls singular may come once only: with "the last one wins", two readers could see two values.
//! Groups (wire types 3 and 4) are refused: CRIU has none, and they are the only part of the format that nests
//! without a length.

use thiserror::Error;

/// Why bytes are not the message that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A field runs past the end of its message.
    #[error("field runs past the end of the message")]
    Truncated,
    /// A variable-length integer is longer than ten bytes or does not fit 64 bits.
    #[error("integer does not fit 64 bits")]
    Overlong,
    /// The tag has a field number of zero or above 2^29-1.
    #[error("field number is out of range")]
    Number,
    /// The tag has a wire type that CRIU does not use.
    #[error("wire type {0} is not in use")]
    WireType(u8),
    /// A known field has another wire type than the schema says.
    #[error("field {0} has the wrong wire type")]
    Kind(u32),
    /// A singular field comes twice.
    #[error("field {0} comes more than once")]
    Twice(u32),
    /// A required field is not there.
    #[error("field {0} is missing")]
    Absent(u32),
    /// A number is larger than its type in the schema.
    #[error("field {0} is out of range")]
    Range(u32),
    /// A string is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Utf8(u32),
}

/// The value of one field, as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0: integers, booleans, enums.
    Varint(u64),
    /// Wire type 1: eight bytes, little endian.
    Fixed64([u8; 8]),
    /// Wire type 2: strings, bytes, messages, packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5: four bytes, little endian.
    Fixed32([u8; 4]),
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Number in the schema, 1 to 2^29-1.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Tag and value as they stand in the message.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// The bytes of a length-delimited field.
    ///
    /// # Errors
    /// The field is a number.
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::Kind(self.number)),
        }
    }
}

/// Largest field number that protobuf allows.
const MAX_NUMBER: u64 = (1 << 29) - 1;

/// Walks over the fields of a message; ends after the first error.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = take_field(&mut self.rest);
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// A message whose outer layer is sound: every field ends where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes bytes for a message. Only the outer layer is looked at, messages inside are read when they are asked for.
    ///
    /// # Errors
    /// The first field that is not sound.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        Fields { rest: bytes }.try_for_each(|field| field.map(drop))?;
        Ok(Self { bytes })
    }

    /// All fields in the order of the bytes.
    pub fn fields(self) -> Fields<'a> {
        Fields { rest: self.bytes }
    }

    /// The bytes that were parsed.
    pub fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The only field of this number.
    fn single(self, number: u32) -> Result<Option<Value<'a>>, WireError> {
        let mut found = None;
        for field in self.fields() {
            let field = field?;
            if field.number == number && found.replace(field.value).is_some() {
                return Err(WireError::Twice(number));
            }
        }
        Ok(found)
    }

    /// An optional integer.
    ///
    /// # Errors
    /// The field comes twice or is not an integer.
    pub fn uint64(self, number: u32) -> Result<Option<u64>, WireError> {
        match self.single(number)? {
            None => Ok(None),
            Some(Value::Varint(value)) => Ok(Some(value)),
            Some(_) => Err(WireError::Kind(number)),
        }
    }

    /// An optional integer of at most 32 bits.
    ///
    /// # Errors
    /// As [`Message::uint64`], and if the value is larger.
    pub fn uint32(self, number: u32) -> Result<Option<u32>, WireError> {
        self.uint64(number)?
            .map(|value| u32::try_from(value).map_err(|_out_of_range| WireError::Range(number)))
            .transpose()
    }

    /// A required integer of at most 32 bits.
    ///
    /// # Errors
    /// As [`Message::uint32`], and if it is missing.
    pub fn required_uint32(self, number: u32) -> Result<u32, WireError> {
        self.uint32(number)?.ok_or(WireError::Absent(number))
    }

    /// A required integer.
    ///
    /// # Errors
    /// As [`Message::uint64`], and if it is missing.
    pub fn required_uint64(self, number: u32) -> Result<u64, WireError> {
        self.uint64(number)?.ok_or(WireError::Absent(number))
    }

    /// An optional boolean: false where it is absent.
    ///
    /// # Errors
    /// As [`Message::uint64`].
    pub fn flag(self, number: u32) -> Result<bool, WireError> {
        Ok(self.uint64(number)?.unwrap_or(0) != 0)
    }

    /// An optional run of bytes.
    ///
    /// # Errors
    /// The field comes twice or is not length-delimited.
    pub fn bytes(self, number: u32) -> Result<Option<&'a [u8]>, WireError> {
        match self.single(number)? {
            None => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(WireError::Kind(number)),
        }
    }

    /// An optional string.
    ///
    /// # Errors
    /// As [`Message::bytes`], and if it is not UTF-8.
    pub fn string(self, number: u32) -> Result<Option<&'a str>, WireError> {
        self.bytes(number)?
            .map(|bytes| str::from_utf8(bytes).map_err(|_not_utf8| WireError::Utf8(number)))
            .transpose()
    }

    /// A required string. Bytes that are not UTF-8 (paths may be anything) become replacement characters.
    ///
    /// # Errors
    /// As [`Message::bytes`], and if it is missing.
    pub fn required_lossy(self, number: u32) -> Result<String, WireError> {
        let bytes = self.bytes(number)?.ok_or(WireError::Absent(number))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// An optional message inside this one.
    ///
    /// # Errors
    /// As [`Message::bytes`], and if it is not sound itself.
    pub fn message(self, number: u32) -> Result<Option<Message<'a>>, WireError> {
        self.bytes(number)?.map(Message::parse).transpose()
    }

    /// A required message inside this one.
    ///
    /// # Errors
    /// As [`Message::message`], and if it is missing.
    pub fn required_message(self, number: u32) -> Result<Message<'a>, WireError> {
        self.message(number)?.ok_or(WireError::Absent(number))
    }

    /// A repeated run of bytes, in the order of the message.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn repeated_bytes(self, number: u32) -> Result<Vec<&'a [u8]>, WireError> {
        let mut found = Vec::new();
        for field in self.fields() {
            let field = field?;
            if field.number == number {
                found.push(field.bytes()?);
            }
        }
        Ok(found)
    }

    /// A repeated message.
    ///
    /// # Errors
    /// As [`Message::repeated_bytes`], and if one is not sound itself.
    pub fn messages(self, number: u32) -> Result<Vec<Message<'a>>, WireError> {
        let bytes = self.repeated_bytes(number)?;
        bytes.into_iter().map(Message::parse).collect()
    }

    /// A repeated integer of at most 32 bits, packed or not.
    ///
    /// # Errors
    /// A value of another kind, or a larger one.
    pub fn repeated_uint32(self, number: u32) -> Result<Vec<u32>, WireError> {
        let narrow = |value| u32::try_from(value).map_err(|_out_of_range| WireError::Range(number));
        let mut values = Vec::new();
        for field in self.fields() {
            let field = field?;
            if field.number != number {
                continue;
            }
            match field.value {
                Value::Varint(value) => values.push(narrow(value)?),
                Value::Bytes(mut packed) => {
                    while !packed.is_empty() {
                        values.push(narrow(take_varint(&mut packed)?)?);
                    }
                }
                Value::Fixed32(_) | Value::Fixed64(_) => return Err(WireError::Kind(number)),
            }
        }
        Ok(values)
    }

    /// How often a field comes.
    ///
    /// # Errors
    /// As [`Fields`].
    pub fn count(self, number: u32) -> Result<usize, WireError> {
        self.fields()
            .try_fold(0, |sum, field| Ok(sum + usize::from(field?.number == number)))
    }
}

/// Takes one field off the front.
fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, WireError> {
    let start = *rest;
    let tag = take_varint(rest)?;
    let number = tag >> 3;
    if number == 0 || number > MAX_NUMBER {
        return Err(WireError::Number);
    }
    let value = match (tag & 7) as u8 {
        0 => Value::Varint(take_varint(rest)?),
        1 => Value::Fixed64(take_array(rest)?),
        2 => {
            let length = take_varint(rest)?;
            let length = usize::try_from(length).map_err(|_too_long| WireError::Truncated)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(WireError::Truncated)?;
            *rest = after;
            Value::Bytes(bytes)
        }
        5 => Value::Fixed32(take_array(rest)?),
        other => return Err(WireError::WireType(other)),
    };
    let raw = &start[..start.len() - rest.len()];
    Ok(Field {
        number: number as u32,
        value,
        raw,
    })
}

/// Takes one variable-length integer off the front.
fn take_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().copied().take(10).enumerate() {
        // The tenth byte holds bit 63 and nothing else.
        if index == 9 && byte > 1 {
            return Err(WireError::Overlong);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 {
        WireError::Truncated
    } else {
        WireError::Overlong
    })
}

/// Takes a fixed number of bytes off the front.
fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (head, after) = rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
    *rest = after;
    Ok(*head)
}

/// Appends one field to a message.
pub fn push(message: &mut Vec<u8>, number: u32, value: Value<'_>) {
    let wire_type = match value {
        Value::Varint(_) => 0,
        Value::Fixed64(_) => 1,
        Value::Bytes(_) => 2,
        Value::Fixed32(_) => 5,
    };
    push_varint(message, u64::from(number) << 3 | wire_type);
    match value {
        Value::Varint(value) => push_varint(message, value),
        Value::Fixed64(bytes) => message.extend_from_slice(&bytes),
        Value::Bytes(bytes) => {
            push_varint(message, bytes.len() as u64);
            message.extend_from_slice(bytes);
        }
        Value::Fixed32(bytes) => message.extend_from_slice(&bytes),
    }
}

fn push_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// The message with one field set: in the place of the old one where there is one, at the end otherwise.
///
/// # Errors
/// The message is not sound, or has the field twice.
pub fn set(message: &[u8], number: u32, value: Value<'_>) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(message.len() + 16);
    let mut done = false;
    for field in Message::parse(message)?.fields() {
        let field = field?;
        if field.number != number {
            out.extend_from_slice(field.raw);
        } else if done {
            return Err(WireError::Twice(number));
        } else {
            push(&mut out, number, value);
            done = true;
        }
    }
    if !done {
        push(&mut out, number, value);
    }
    Ok(out)
}

/// The message without some fields, however often they come.
///
/// # Errors
/// The message is not sound.
pub fn clear(message: &[u8], numbers: &[u32]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(message.len());
    for field in Message::parse(message)?.fields() {
        let field = field?;
        if !numbers.contains(&field.number) {
            out.extend_from_slice(field.raw);
        }
    }
    Ok(out)
}
