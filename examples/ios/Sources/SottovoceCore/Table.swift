import Foundation

/// A table of the host: an `.npy` file of little-endian half precision, mapped.
public struct Table {
    public let shape: [Int]
    public let rowCount: Int
    private let data: Data
    private let start: Int

    /// Opens `url`; throws where it is no version 1 `.npy` file of `<f2` in C order.
    public init(_ url: URL) throws {
        data = try Data(contentsOf: url, options: .alwaysMapped)
        guard data.count > 10, data[1] == 0x4E, data[2] == 0x55, data[6] == 1 else {
            throw BundleError.damaged("\(url.lastPathComponent) is no .npy file")
        }
        let length = Int(data[8]) | Int(data[9]) << 8
        start = 10 + length
        let header = String(decoding: data[10..<start], as: UTF8.self)
        guard header.contains("'<f2'"), header.contains("'fortran_order': False"),
            let open = header.firstIndex(of: "("), let close = header.firstIndex(of: ")")
        else { throw BundleError.damaged("\(url.lastPathComponent): \(header)") }
        shape = header[header.index(after: open)..<close].split(separator: ",")
            .compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        rowCount = shape.dropFirst().reduce(1, *)
        guard data.count == start + 2 * shape.reduce(1, *) else {
            throw BundleError.damaged("\(url.lastPathComponent) is truncated")
        }
    }

    /// Row `index`, `rowCount` numbers.
    public func row(_ index: Int) -> [Float16] {
        let first = start + 2 * rowCount * index
        return (0..<rowCount).map {
            Float16(bitPattern: UInt16(data[first + 2 * $0]) | UInt16(data[first + 2 * $0 + 1]) << 8)
        }
    }
}
