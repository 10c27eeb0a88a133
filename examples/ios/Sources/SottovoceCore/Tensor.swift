/// An array of half precision, row by row.
public struct Tensor: Equatable {
    public let shape: [Int]
    public var values: [Float16]

    public init(_ shape: [Int], _ values: [Float16]) {
        precondition(values.count == shape.reduce(1, *))
        self.shape = shape
        self.values = values
    }

    /// `value` everywhere.
    public init(_ shape: [Int], filledWith value: Float16 = 0) {
        self.init(shape, Array(repeating: value, count: shape.reduce(1, *)))
    }

    /// Vectors of d as the columns of an array whose last axis counts them: [1, d, 1, T], or [1, 1, d, T] where `low`.
    init(columns vectors: [[Float16]], low: Bool = false) {
        let count = vectors.count, width = vectors[0].count
        self.init(low ? [1, 1, width, count] : [1, width, 1, count])
        for (column, vector) in vectors.enumerated() {
            for (index, value) in vector.enumerated() { values[index * count + column] = value }
        }
    }

    /// A row for each column of a run, an entry for each slot: [1, 1, T, S].
    init(rows count: Int, _ width: Int, _ value: (Int, Int) -> Float16) {
        self.init([1, 1, count, width], (0..<count * width).map { value($0 / width, $0 % width) })
    }
}

/// Attention bias of a slot that may not be seen, in half precision's range.
let hidden: Float16 = -30000

/// Rows [2, D/2] of positions, cosines and then sines, as the two inputs that layers take.
func rotaryFeeds(_ rows: [[Float16]]) -> [String: Tensor] {
    let half = rows[0].count / 2
    return [
        "rotary_cos": Tensor(columns: rows.map { Array($0[..<half]) }, low: true),
        "rotary_sin": Tensor(columns: rows.map { Array($0[half...]) }, low: true),
    ]
}
